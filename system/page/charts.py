"""Charts as SVG: two axes, and what is drawn between them. Colors are classes that page.css knows."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from system.page.markup import Child, Markup, element

WIDTH, HEIGHT = 480, 340
LEFT, RIGHT, TOP, BOTTOM = 58, 14, 12, 46  # pixels around the plot
_SCALES: dict[str, Callable[[float], float]] = {"linear": float, "log": math.log10}


class Axis(NamedTuple):
    """An axis from low to high, "linear" or "log", with ticks at some values."""

    label: str
    low: float
    high: float
    ticks: Sequence[float]
    scale: str = "linear"

    def share(self, value: float) -> float | None:
        """Return how far along the axis a value lies, in [0, 1]; None beyond its ends."""
        of = _SCALES[self.scale]
        if self.scale == "log" and not value > 0:
            return None
        share = (of(value) - of(self.low)) / (of(self.high) - of(self.low))
        return share if -1e-9 <= share <= 1 + 1e-9 else None  # an end may be missed by a rounding


def log_axis(label: str, low: float, high: float = 1.0) -> Axis:
    """Return a log axis from low, above 0, whose ticks are powers of ten, of a short one also twice and five times."""
    low = min(low, high / 10)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    factors = (1, 2, 5) if len(powers) <= 3 else (1,)
    ticks = [factor * 10.0**power for power in powers for factor in factors]
    return Axis(label, low, high, [tick for tick in ticks if low * (1 - 1e-9) <= tick <= high * (1 + 1e-9)], "log")


def linear_axis(label: str, low: float, high: float) -> Axis:
    """Return a linear axis with some round ticks between its ends."""
    if not high > low:
        low, high = low - 0.5, low + 0.5
    step = 10.0 ** math.floor(math.log10((high - low) / 4))
    step *= next(factor for factor in (1, 2, 2.5, 5, 10) if (high - low) / (step * factor) <= 6)
    first = math.ceil(low / step - 1e-9)
    ticks = [round(number * step, 12) for number in range(first, math.floor(high / step + 1e-9) + 1)]
    return Axis(label, low, high, ticks)


@dataclass(frozen=True)
class Frame:
    """The plot of two axes."""

    x: Axis
    y: Axis
    width: int = WIDTH
    height: int = HEIGHT

    def place(self, x: float, y: float) -> tuple[float, float] | None:
        """Return where a point lies in the picture; None outside the axes."""
        across, up = self.x.share(x), self.y.share(y)
        if across is None or up is None:
            return None
        inner_width, inner_height = self.width - LEFT - RIGHT, self.height - TOP - BOTTOM
        return LEFT + across * inner_width, TOP + (1 - up) * inner_height

    def line(self, xs: Iterable[float], ys: Iterable[float], class_: str, name: str = "") -> Markup:
        """Return straight lines between points; those outside the axes are left out."""
        places = [found for x, y in zip(xs, ys, strict=True) if (found := self.place(x, y)) is not None]
        path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in places) if places else None
        return element("path", _title(name), d=path, class_=f"line {class_}")

    def steps(self, edges: Sequence[float], heights: Sequence[float], class_: str, name: str = "") -> Markup:
        """Return the outline of bars between edges, which stand on the lower end of the y axis."""
        xs = [edge for edge in edges for _ in range(2)]
        ys = [self.y.low, *(height for height in heights for _ in range(2)), self.y.low]
        return self.line(xs, ys, class_, name)

    def upright(self, x: float, class_: str, name: str = "") -> Markup | None:
        """Return a line from the bottom to the top; None outside the axis."""
        low, high = self.place(x, self.y.low), self.place(x, self.y.high)
        if low is None or high is None:
            return None
        (left, bottom), (_, top) = low, high
        return element(
            "line", _title(name), x1=f"{left:.1f}", x2=f"{left:.1f}", y1=f"{bottom:.1f}", y2=f"{top:.1f}", class_=class_
        )

    def whisker(self, x: float, low: float, high: float, class_: str) -> Markup | None:
        """Return the line of an interval; None outside the axes."""
        lower, upper = self.place(x, max(low, self.y.low)), self.place(x, min(high, self.y.high))
        if lower is None or upper is None:
            return None
        (left, bottom), (_, top) = lower, upper
        return element("path", d=f"M{left:.1f} {bottom:.1f}V{top:.1f}", class_=f"line {class_}")

    def dot(self, x: float, y: float, class_: str, name: str = "") -> Markup | None:
        """Return a dot; None outside the axes."""
        place = self.place(x, y)
        if place is None:
            return None
        return element("circle", _title(name), cx=f"{place[0]:.1f}", cy=f"{place[1]:.1f}", r=3.5, class_=class_)

    def svg(self, title: str, *marks: Child, chart: str | None = None) -> Markup:
        """Return the picture.

        Args:
            title: what it shows, for those who do not see it.
            marks: what stands between the axes.
            chart: name under which the script finds it; None: it need not.
        """
        ends = {
            "data_chart": chart,
            "data_x": _ends(self.x) if chart else None,
            "data_y": _ends(self.y) if chart else None,
        }
        return element(
            "svg", _grid(self), marks, _labels(self),
            viewBox=f"0 0 {self.width} {self.height}", role="img", aria_label=title, **ends,
        )  # fmt: skip


def sparkline(xs: Sequence[float], ys: Sequence[float], title: str) -> Markup | None:
    """Return a line without axes, as high as a line of text; None of fewer than two points."""
    if len(ys) < 2:
        return None
    (left, right), (low, high) = (min(xs), max(xs)), (min(ys), max(ys))
    across, up = right - left or 1.0, high - low or 1.0
    places = (
        f"{2 + 116 * (x - left) / across:.1f} {26 - 24 * (y - low) / up:.1f}" for x, y in zip(xs, ys, strict=True)
    )
    path = element("path", d=f"M{'L'.join(places)}", class_="line s0")
    return element("svg", path, viewBox="0 0 120 28", role="img", aria_label=title, class_="spark")


def legend(entries: Iterable[tuple[str, Child]]) -> Markup:
    """Return a list of line classes and what they stand for."""
    items = [
        element("li", element("svg", element("path", d="M0 5H28", class_=f"line {class_}"), viewBox="0 0 28 10",
                              aria_hidden="true"), " ", name)
        for class_, name in entries
    ]  # fmt: skip
    return element("ul", items, class_="legend")


def joined_figures(drawn: Sequence[Markup], names: Child, note: Child) -> Markup:
    """Return figures side by side over what their lines stand for."""
    return element("div", element("div", drawn, class_="figures"), names, element("p", note, class_="note"))


def number(value: float) -> str:
    """Return a number beside a tick."""
    if value and abs(value) < 1e-3:
        return f"{value:.0e}".replace("e-0", "e-")
    return f"{value:.6g}"


def _grid(frame: Frame) -> list[Markup]:
    lines = []
    for tick in frame.x.ticks:
        if (found := frame.upright(tick, "grid")) is not None:
            lines.append(found)
    for tick in frame.y.ticks:
        if (place := frame.place(frame.x.low, tick)) is not None:
            lines.append(element("path", d=f"M{LEFT} {place[1]:.1f}H{frame.width - RIGHT}", class_="grid"))
    return lines


def _labels(frame: Frame) -> list[Markup]:
    bottom = frame.height - BOTTOM
    texts = []
    for tick in frame.x.ticks:
        if (place := frame.place(tick, frame.y.low)) is not None:
            texts.append(element("text", number(tick), x=f"{place[0]:.1f}", y=bottom + 16, class_="middle"))
    for tick in frame.y.ticks:
        if (place := frame.place(frame.x.low, tick)) is not None:
            texts.append(element("text", number(tick), x=LEFT - 6, y=f"{place[1] + 4:.1f}", class_="end"))
    middle = (LEFT + frame.width - RIGHT) / 2, (TOP + bottom) / 2
    texts.append(element("text", frame.x.label, x=middle[0], y=frame.height - 8, class_="middle"))
    turned = f"rotate(-90 14 {middle[1]})"
    texts.append(element("text", frame.y.label, x=14, y=middle[1], transform=turned, class_="middle"))
    return texts


def _title(name: str) -> Markup | None:
    return element("title", name) if name else None


def _ends(axis: Axis) -> str:
    return f"{axis.scale},{axis.low!r},{axis.high!r}"
