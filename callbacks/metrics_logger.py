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


class MetricsLogger(Logger):
    """Write `metrics.csv`: one row per optimiser step, one column per metric, empty where nothing was measured.

    Metrics logged at the same step share a row. Lightning's own CSV logger starts a new row for every call and
    keeps the rows of steps that a resumed run repeats.

    Args:
        folder: the run folder; `metrics.csv` in it is continued when it exists.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._path = Path(folder) / "metrics.csv"
        self._columns: list[str] = []
        self._row: dict[str, Any] = {}
        self._written_step: int | None = None
        if self._path.exists():
            self._columns, rows = _read_rows(self._path)
            self._written_step = int(rows[-1]["step"]) if rows else None

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
            raise ValueError("MetricsLogger.log_metrics: step is None; pass the optimiser step")
        if self._row and self._row["step"] != step:
            self.save()
            self._row = {}
        self._row.update({"step": step, **{name: float(value) for name, value in metrics.items()}})

    @rank_zero_only
    def save(self) -> None:
        """Append the open row; rewrite the file when a new column appeared."""
        if not self._row:
            return
        new = [name for name in self._row if name not in self._columns]
        if new or self._row["step"] == self._written_step:
            self._columns += sorted(new, key=lambda name: (name != "step", name != "epoch"))
            rows = _read_rows(self._path)[1] if self._path.exists() else []
            if rows and int(rows[-1]["step"]) == self._row["step"]:
                self._row = {**{name: value for name, value in rows.pop().items() if value != ""}, **self._row}
            write_rows(self._path, self._columns, [*rows, self._row])
        else:
            with self._path.open("a", newline="") as stream:
                csv.DictWriter(stream, self._columns, restval="").writerow(self._row)
        self._written_step = self._row["step"]

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Write what is still open when training ends, well or badly."""
        self.save()


def truncate_metrics(path: Path, last_step: int) -> int:
    """Drop the rows after `last_step`, which a resumed run will write again; return how many were dropped."""
    if not path.exists():
        return 0
    columns, rows = _read_rows(path)
    kept = [row for row in rows if int(row["step"]) <= last_step]
    if len(kept) < len(rows):
        write_rows(path, columns, kept)
    return len(rows) - len(kept)


def write_rows(path: Path, columns: list[str], rows: list[dict[str, Any]]) -> None:
    """Write a CSV file as a whole: to a temporary name, synced, then renamed."""
    temporary = path.with_suffix(".csv.tmp")
    with temporary.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, columns, restval="")
        writer.writeheader()
        writer.writerows(rows)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(path)


def _read_rows(path: Path) -> tuple[list[str], list[dict[str, Any]]]:
    """Return columns and whole rows; a last line cut off by a crash is left out."""
    with path.open(newline="") as stream:
        reader = csv.DictReader(stream)
        columns = list(reader.fieldnames or ["step"])
        rows = [row for row in reader if row["step"] and None not in row.values()]
    return columns, rows
