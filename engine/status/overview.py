"""Several runs on one page: how each is, how far, how good, and its loss in small."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from engine.status.page import duration
from engine.status.record import Point, Record
from engine.status.state import DIED, FAILED, PAGE, RUNNING, SILENT, UNKNOWN, RunState, clock_time, read_state
from system.files import is_regular
from system.page.charts import sparkline
from system.page.courses import metric_rows
from system.page.document import document
from system.page.markup import Child, Markup, element, table
from system.terminal import printable

HEAD = ("run", "state", "written", "step", "epoch", "best", "images/s", "to go")
_LOSS = "train_loss"
_REPORT = Path("report", "index.html")
_VERDICTS = {
    DIED: "its process is gone, or on another machine it has been silent for too long.",
    SILENT: "its process lives, but has written nothing for a long time: it may be stopped, or its disk hangs.",
    UNKNOWN: "it has left no word, as runs that were killed before there was this page.",
}


class Overview(NamedTuple):
    """A run: how it is, what it logged, and why that cannot be read, if so."""

    state: RunState
    record: Record
    fault: str = ""

    @property
    def name(self) -> str:
        """What the user calls it."""
        return printable(self.state.folder.resolve().name)

    @property
    def best(self) -> Point | None:
        """The largest value of the metric that chooses best.ckpt."""
        _, largest = self.record.figures().get(self.state.monitor, (None, None))
        return largest

    def cells(self) -> list[str]:
        """Return what stands under HEAD; "-" where nothing is known."""
        state, best, lives = self.state, self.best, self.state.verdict in (RUNNING, SILENT)
        step = state.step if state.step is not None else max(self._logged_steps(), default=None)
        doing = f", {state.doing}" if state.doing and state.doing != state.verdict else ""
        return [
            self.name,
            f"{state.verdict}{doing}",
            "-" if state.age is None else f"{duration(state.age)} ago",
            _of(step, state.total_steps),
            "-" if state.epoch is None else f"{state.epoch:.0f}",
            "-" if best is None else f"{state.monitor} {best.value:.5g} at step {best.step:.0f}",
            "-" if not state.images_per_second or not lives else f"{state.images_per_second:.1f}",
            "-" if state.seconds_to_go is None or not lives else duration(state.seconds_to_go),
        ]

    def _logged_steps(self) -> list[float]:
        return [latest.step for latest, _ in self.record.figures().values()]


def _of(step: float | None, total: float | None) -> str:
    if step is None:
        return "-"
    return f"{step:,.0f}" if not total else f"{step:,.0f} of {total:,.0f} ({step / total:.0%})"


def look_at(folder: Path) -> Overview:
    """Return how a run is; a metrics.csv that cannot be read is a fault of it, and no error."""
    state, record = read_state(folder), Record()
    try:
        for step, values in metric_rows(folder / "metrics.csv"):
            record.add(step, {printable(name): value for name, value in values.items()})
    except (OSError, ValueError) as error:
        return Overview(state, record, str(error))
    return Overview(state, record)


def build_overview(runs: Sequence[Overview], place: Path, now: float) -> str:
    """Return the page.

    Args:
        runs: in the order of the page.
        place: folder of the page, for its links.
        now: seconds since 1970.
    """
    rows = [_row(run, place) for run in runs]
    head = [*HEAD, "loss", "course of the best metric", "more"]
    told = table(head, rows, "Runs, the one that was written to last first. Epochs are counted from 0.", class_="facts")
    meanings = [element("li", f"{verdict}: {text}") for verdict, text in _VERDICTS.items() if _has(runs, verdict)]
    words = [[run.name, run.state.words] for run in runs if run.state.words]
    faults = [[run.name, printable(run.fault)] for run in runs if run.fault]
    sections: dict[str, Child] = {
        "Runs": [told, element("ul", meanings) if meanings else None],
        "Last words": table(["run", "words"], words, "What ended them.", class_="facts") if words else None,
        "Not readable": table(["run", "why"], faults, "Files that are none of a run.", class_="facts")
        if faults
        else None,
    }
    num = {"1 run" if len(runs) == 1 else f"{len(runs)} runs"}
    return document("Status of runs", [*num, f"looked at {clock_time(now)}"], sections)


def _has(runs: Sequence[Overview], verdict: str) -> bool:
    return any(run.state.verdict == verdict for run in runs)


def _row(run: Overview, place: Path) -> list[Child]:
    lines = run.record.lines()
    drawn = [
        None if name not in lines else sparkline(*lines[name][:2], f"{name} of {run.name}")
        for name in (_LOSS, run.state.monitor)
    ]
    name, state, *others = run.cells()
    bad = run.state.verdict in (DIED, SILENT, FAILED)
    return [name, element("strong", state) if bad else state, *others, *drawn, _links(run.state.folder, place)]


def _links(folder: Path, place: Path) -> list[Markup]:
    pages = {"status": folder / PAGE, "report": folder / _REPORT}
    return [
        element("a", f"{name} ", href=quote(os.path.relpath(path.resolve(), place.resolve())))
        for name, path in pages.items()
        if is_regular(path)
    ]
