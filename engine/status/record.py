"""What was logged so far, kept in bounded memory: a thinned line, the latest value and the largest of each metric."""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping
from typing import NamedTuple

from system.page.courses import MAX_POINTS, Line


class Point(NamedTuple):
    """A value at a step."""

    step: float
    value: float


class Course:
    """A metric over the steps; of long ones each point is the mean of a block of values that follow each other.

    Attributes:
        latest: what was logged last, finite or not.
        largest: the first of the largest finite values; None before there is one.
    """

    def __init__(self) -> None:
        self.latest = Point(0.0, math.nan)
        self.largest: Point | None = None
        self._points: list[Point] = []
        self._open: list[Point] = []  # values of the block that is not full yet
        self._block = 1

    def add(self, point: Point) -> None:
        """Take a value in; one that is not finite has no place on a line."""
        self.latest = point
        if not math.isfinite(point.value):
            return
        if self.largest is None or point.value > self.largest.value:
            self.largest = point
        if len(self._points) == MAX_POINTS:
            self._points = [_mean(self._points[place : place + 2]) for place in range(0, MAX_POINTS, 2)]
            self._block *= 2
        self._open.append(point)
        if len(self._open) == self._block:
            self._points.append(_mean(self._open))
            self._open = []

    def line(self) -> Line:
        """Return at most MAX_POINTS + 1 points; the last may be of fewer values than the others."""
        points = [*self._points, _mean(self._open)] if self._open else self._points
        return Line([point.step for point in points], [point.value for point in points], self._block)


def _mean(points: list[Point]) -> Point:
    steps, values = zip(*points, strict=True)
    return Point(sum(steps) / len(points), sum(values) / len(points))


class Record:
    """Courses by name; one thread adds to them while another reads."""

    def __init__(self) -> None:
        self._courses: dict[str, Course] = {}
        self._lock = threading.Lock()

    def add(self, step: float, values: Mapping[str, float]) -> None:
        """Take a row in."""
        with self._lock:
            for name, value in values.items():
                self._courses.setdefault(name, Course()).add(Point(step, float(value)))

    def lines(self) -> dict[str, Line]:
        """Return the lines by name, in the order of the names."""
        with self._lock:
            return {name: self._courses[name].line() for name in sorted(self._courses)}

    def figures(self) -> dict[str, tuple[Point, Point | None]]:
        """Return the latest and the largest value by name, in the order of the names."""
        with self._lock:
            return {name: (self._courses[name].latest, self._courses[name].largest) for name in sorted(self._courses)}
