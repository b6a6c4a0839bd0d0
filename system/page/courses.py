"""The course of a run: the metrics that it logged, thinned to lines, and charts of these."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from system.page.charts import Axis, Frame, joined_figures, legend, linear_axis, log_axis
from system.page.markup import Markup, element

MAX_POINTS = 200  # of a line
MAX_LINES = 8  # of a chart: as many as there are styles
MAX_METRICS = 2**28  # bytes of metrics.csv


class Line(NamedTuple):
    """A metric over the steps, thinned: each point is the mean of `block` values that follow each other."""

    steps: list[float]
    values: list[float]
    block: int


class Chart(NamedTuple):
    """A chart of the metrics whose names begin and end so, without those that begin otherwise."""

    title: str
    begin: str
    end: str
    log: bool = False
    without: tuple[str, ...] = ()

    def names(self, lines: Iterable[str]) -> list[str]:
        """Return the metrics that it shows."""
        found = (name for name in lines if name.startswith(self.begin) and name.endswith(self.end))
        return [name for name in found if not name.startswith(self.without)][:MAX_LINES]


CHARTS = (
    Chart("Accuracy in validation", "val_", "acc"),
    Chart("Accuracy in validation, by set", "", "_acc", without=("val_", "train_", "test_")),
    Chart("Losses in training", "train_", "loss", log=True),
    Chart("Accuracy in training", "train_", "acc"),
    Chart("Learning rate", "lr", "", log=True),
    Chart("Norm of the gradient", "grad_norm", "", log=True),
)


def read_metrics(path: Path) -> dict[str, Line]:
    """Return the metrics of a run by name; none where there is no such file.

    Raises:
        ValueError: if the file is none that a run writes; names it.
        OSError: if it cannot be read.
    """
    points: dict[str, list[tuple[float, float]]] = {}
    for step, values in metric_rows(path):
        for name, value in values.items():
            points.setdefault(name, []).append((step, value))
    return {name: thin(found) for name, found in points.items()}


def metric_rows(path: Path) -> Iterator[tuple[float, dict[str, float]]]:
    """Yield the step and the values by name of each row of metrics.csv; see `read_metrics`."""
    if not path.is_file():
        return
    if path.stat().st_size > MAX_METRICS:
        raise ValueError(f"{path}: more than {MAX_METRICS >> 20} MiB; is it the metrics.csv of a run?")
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            for row in csv.DictReader(stream, strict=True):
                step = float(row.pop("step"))
                yield step, {name: float(text) for name, text in row.items() if text}
    except (csv.Error, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: not the metrics.csv of a run ({type(error).__name__}: {error})") from error


def thin(points: Sequence[tuple[float, float]]) -> Line:
    """Return at most MAX_POINTS means of blocks of equal length, the last may be shorter; only finite values count."""
    finite = [point for point in points if all(map(math.isfinite, point))]
    block = max(1, math.ceil(len(finite) / MAX_POINTS))
    blocks = [finite[start : start + block] for start in range(0, len(finite), block)]
    steps, values = ([sum(point[side] for point in part) / len(part) for part in blocks] for side in (0, 1))
    return Line(steps, values, block)


def charts_of(metrics: Mapping[str, Line]) -> list[Markup]:
    """Return the charts that the metrics fill."""
    chosen = ((chart, chart.names(metrics)) for chart in CHARTS)
    return [course(chart, {name: metrics[name] for name in names}) for chart, names in chosen if names]


def course(chart: Chart, lines: Mapping[str, Line]) -> Markup:
    """Return a chart of lines by name."""
    values = [value for line in lines.values() for value in line.values]
    steps = [step for line in lines.values() for step in line.steps]
    if not values:
        return Markup("")
    frame = Frame(linear_axis("step", min(0.0, *steps), max(steps)), _value_axis(values, chart.log))
    drawn = [_line(frame, line, f"s{number}", name) for number, (name, line) in enumerate(lines.items())]
    block = max(line.block for line in lines.values())
    note = (
        "Every value is drawn."
        if block == 1
        else f"Each point is the mean of up to {block:,} values that follow each other."
    )
    picture = frame.svg(chart.title, drawn)
    names = legend((f"s{number}", name) for number, name in enumerate(lines))
    return joined_figures([element("figure", element("figcaption", chart.title), picture)], names, note)


def _line(frame: Frame, line: Line, style: str, name: str) -> list[Markup | None]:
    """Return a line; of few points each also as a dot, for a line of one would not be seen."""
    dots = [frame.dot(x, y, style) for x, y in zip(*line[:2], strict=True)] if len(line.steps) <= MAX_LINES else []
    return [frame.line(line.steps, line.values, style, name), *dots]


def _value_axis(values: Sequence[float], log: bool) -> Axis:
    positive = [value for value in values if value > 0]
    if log and positive:
        return log_axis("", min(positive), max(positive))
    return linear_axis("", min(values), max(values))
