"""A CSV logger that holds every step once, also after a crash and a resume."""

from __future__ import annotations

import csv
import os
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities import rank_zero_only

from engine.files import WriteFailures, side_file
from system.files import atomic_write, set_aside
from system.terminal import printable


class MetricsLogger(Logger):
    """Write `metrics.csv`: one row per optimizer step, one column per metric, empty where nothing was measured.

    Metrics logged at the same step share a row. Lightning's own CSV logger starts a new row for every call and
    keeps the rows of steps that a resumed run repeats.

    The columns are step, epoch and the others by name, so that they do not tell when a run was interrupted. Rows that
    cannot be written wait until they can.

    Args:
        folder: the run folder; `metrics.csv` in it is continued when it exists.
        failures: told when the file cannot be written; None: that is an error.
    """

    def __init__(self, folder: Path, failures: WriteFailures | None = None) -> None:
        super().__init__()
        self._path = Path(folder) / "metrics.csv"
        self._failures = failures
        self._row: dict[str, Any] = {}
        self._waiting: list[dict[str, Any]] = []  # rows that are not in the file, the open one included
        self._columns = _read_rows(self._path)[0] if self._path.exists() else []
        self._last_step: int | None = None  # in the file
        self._can_append = False  # a file from before may end inside a line

    @property
    def name(self) -> str:
        """Return the name Lightning shows for this logger."""
        return "metrics"

    @property
    def version(self) -> str:
        """Return an empty version: the run folder is the version."""
        return ""

    @property
    def save_dir(self) -> str:
        """Return the run folder."""
        return str(self._path.parent)

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Do nothing: the run folder holds config.json."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Add metrics to the row of `step`; a new step writes the row before it.

        Raises:
            ValueError: if no step is given; a row without a step could not be matched after a resume.
        """
        if step is None:
            raise ValueError("MetricsLogger.log_metrics: step is None; pass the optimizer step")
        if self._row and self._row["step"] != step:
            self.save()
            self._row = {}
        self._row.update({"step": step, **{printable(name): float(value) for name, value in metrics.items()}})
        if not self._waiting or self._waiting[-1] is not self._row:
            self._waiting.append(self._row)

    @rank_zero_only
    def save(self) -> None:
        """Append the open row; rewrite the file when a new column appeared or its last row grew."""
        if self._waiting:
            with side_file(self._failures, self._path.name):
                self._write(self._waiting)
                self._waiting, self._can_append = [], True

    def _write(self, rows: list[dict[str, Any]]) -> None:
        new = {name for row in rows for name in row} - set(self._columns)
        if self._can_append and not new and rows[0]["step"] != self._last_step:
            self._can_append = False  # unless all goes well
            self._append(rows)
        else:
            columns = sorted({*self._columns, *new}, key=lambda name: (name != "step", name != "epoch", name))
            write_rows(self._path, columns, _merged(self._path, rows))
            self._columns = columns
        self._last_step = rows[-1]["step"]

    def _append(self, rows: list[dict[str, Any]]) -> None:
        size = self._path.stat().st_size
        try:
            with self._path.open("a", encoding="utf-8", newline="") as stream:
                csv.DictWriter(stream, self._columns, restval="").writerows(rows)
                stream.flush()
                os.fsync(stream.fileno())  # a checkpoint may follow, which trusts that this is written
        except OSError:
            os.truncate(self._path, size)
            raise

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Write what is still open when training ends, well or badly."""
        self.save()


def _merged(path: Path, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows of a file with those that follow, the first of which may add to the file's last one."""
    written = _read_rows(path)[1] if path.exists() else []
    if written and int(written[-1]["step"]) == rows[0]["step"]:
        last = {name: value for name, value in written.pop().items() if value != ""}
        rows = [{**last, **rows[0]}, *rows[1:]]
    return [*written, *rows]


def truncate_metrics(path: Path, last_step: int) -> int:
    """Drop what a run that goes on will write again: rows after `last_step`, and the test of a run that had ended.

    Returns:
        How many rows were dropped.
    """
    if not path.exists():
        return 0
    try:
        columns, rows = _read_rows(path)
    except (ValueError, csv.Error):
        set_aside(path, "is no table of steps")
        return 0
    kept = [row for row in rows if int(row["step"]) <= last_step]
    lasting = [name for name in columns if not name.startswith("test_")]
    if len(kept) < len(rows) or lasting != columns:
        write_rows(path, lasting, [{name: row[name] for name in lasting} for row in kept])
    return len(rows) - len(kept)


def write_rows(path: Path, columns: list[str], rows: list[dict[str, Any]]) -> None:
    """Write a CSV file as a whole, or nothing."""
    with atomic_write(path, newline="") as stream:
        writer = csv.DictWriter(stream, columns, restval="")
        writer.writeheader()
        writer.writerows(rows)


def _read_rows(path: Path) -> tuple[list[str], list[dict[str, Any]]]:
    """Return columns and whole rows; a last line cut off by a crash is left out.

    Raises:
        ValueError, csv.Error: if it is no such table.
    """
    text = path.read_text(encoding="utf-8")
    whole = text[: text.rfind("\n") + 1]
    reader = csv.DictReader(whole.splitlines())
    columns = list(reader.fieldnames or ["step"])
    if "step" not in columns or len(set(columns)) < len(columns):
        raise ValueError(f"{path}: no table of steps")
    rows = [row for row in reader if row["step"] and None not in row.values() and None not in row]
    for row in rows:
        int(row["step"])
    return columns, rows
