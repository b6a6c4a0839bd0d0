"""The course of a training, from metrics.csv, and the sheet of what its network was fed."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from evaluation.report.page.charts import Axis, Frame, legend, linear_axis, log_axis
from evaluation.report.page.curves import joined_figures
from evaluation.report.page.markup import Markup, element
from evaluation.report.page.pairs import data_uri

MAX_POINTS = 200  # of a line
MAX_LINES = 8  # of a chart: as many as there are styles
MAX_SHEET = 2**22  # bytes of the sheet of samples
MAX_METRICS = 2**28  # bytes of metrics.csv
_PNG = b"\x89PNG\r\n\x1a\n"


class Line(NamedTuple):
    """A metric over the steps, thinned: each point is the mean of `block` values that follow each other."""

    steps: list[float]
    values: list[float]
    block: int


class Chart(NamedTuple):
    """A chart of the metrics whose names begin and end so."""

    title: str
    begin: str
    end: str
    log: bool = False

    def names(self, lines: Iterable[str]) -> list[str]:
        """Return the metrics that it shows."""
        return [name for name in lines if name.startswith(self.begin) and name.endswith(self.end)][:MAX_LINES]


CHARTS = (
    Chart("Accuracy in validation", "val_", "acc"),
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
    if not path.is_file():
        return {}
    if path.stat().st_size > MAX_METRICS:
        raise ValueError(f"{path}: more than {MAX_METRICS >> 20} MiB; is it the metrics.csv of a run?")
    points: dict[str, list[tuple[float, float]]] = {}
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            for row in csv.DictReader(stream, strict=True):
                step = float(row.pop("step"))
                for name, text in row.items():
                    if text:
                        points.setdefault(name, []).append((step, float(text)))
    except (csv.Error, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: not the metrics.csv of a run ({type(error).__name__}: {error})") from error
    return {name: thin(found) for name, found in points.items()}


def thin(points: Sequence[tuple[float, float]]) -> Line:
    """Return at most MAX_POINTS means of blocks of equal length, the last may be shorter; only finite values count."""
    finite = [point for point in points if all(map(math.isfinite, point))]
    block = max(1, math.ceil(len(finite) / MAX_POINTS))
    blocks = [finite[start : start + block] for start in range(0, len(finite), block)]
    steps, values = ([sum(point[side] for point in part) / len(part) for part in blocks] for side in (0, 1))
    return Line(steps, values, block)


def training(metrics: Mapping[str, Line]) -> list[Markup]:
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


def sample_sheet(path: Path) -> Markup | None:
    """Return the sheet of samples of a run; None where there is none."""
    uri = data_uri(path, "png", _PNG, MAX_SHEET)
    return (
        None
        if uri is None
        else element("img", src=uri, alt="The first training images with their masks", class_="sheet")
    )
