"""Hands seen from the back, fingers up, the forearm leaving the canvas below. Materials: R the skin, G the nails."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from tools.drawing.canvas import Field, blur, fill, grid, pack, spline, stroke

Template = NDArray[np.uint8]
Point = tuple[float, float]
Finger = tuple[Point, Point, float]  # knuckle, tip, width

_PALM: Final[list[Point]] = [
    (36, 82),
    (41, 68),
    (56, 65),
    (72, 67),
    (79, 80),
    (77, 100),
    (70, 116),
    (69, 134),
    (71, 200),
    (41, 200),
    (43, 134),
    (41, 116),
]
_FIST: Final[list[Point]] = [
    (32, 84),
    (34, 68),
    (44, 62),
    (58, 61),
    (72, 64),
    (81, 74),
    (81, 92),
    (72, 108),
    (70, 134),
    (72, 200),
    (42, 200),
    (44, 134),
    (36, 104),
]


def spread() -> Template:
    """Return an open hand with spread fingers."""
    fingers: list[Finger] = [
        ((40, 76), (27, 38), 10.0),
        ((51, 70), (47, 24), 10.5),
        ((63, 69), (67, 22), 10.5),
        ((74, 74), (87, 34), 9.5),
        ((42, 102), (14, 76), 11.5),
    ]
    return _hand(_PALM, fingers)


def together() -> Template:
    """Return a flat hand with closed fingers."""
    fingers: list[Finger] = [
        ((41, 76), (38, 36), 10.5),
        ((51.5, 72), (50, 27), 10.5),
        ((62, 72), (62, 26), 10.5),
        ((72.5, 76), (73.5, 34), 10.0),
        ((42, 104), (25, 74), 11.0),
    ]
    return _hand(_PALM, fingers)


def pointing() -> Template:
    """Return a hand with the first two fingers stretched and the others bent."""
    fingers: list[Finger] = [((42, 72), (37, 30), 10.5), ((53, 70), (52, 24), 10.5), ((38, 96), (50, 82), 11.0)]
    return _hand(_FIST, fingers)


def fist() -> Template:
    """Return a closed hand, the knuckles up."""
    fingers: list[Finger] = [
        ((38, 82), (38, 66), 11.5),
        ((49, 80), (49, 61), 11.5),
        ((61, 80), (61, 61), 11.5),
        ((73, 83), (73, 66), 11.0),
        ((34, 94), (52, 88), 11.0),
    ]
    return _hand(_FIST, fingers, nails=False)


def _hand(palm: list[Point], fingers: list[Finger], nails: bool = True) -> Template:
    """Return a hand: each finger lies over what was drawn before it and darkens it along its edge."""
    body = fill(spline(palm))
    shade = _rounded(body, 5.0)
    light = np.zeros_like(body)
    for knuckle, tip, width in fingers:
        line = np.linspace(knuckle, tip, 12)
        cover = stroke(line, width)
        contact = blur(cover, 1.6) * (1 - cover)
        shade = shade * (1 - 0.28 * contact * body)
        # The finger grows out of the hand: at the knuckle it takes the shade below it.
        rise = cover * _along(knuckle, tip)
        finger = _rounded(cover, 2.0) - 0.1 * _joints(knuckle, tip)
        shade = (shade + rise * (finger - shade)).astype(np.float32)
        body = np.maximum(body, cover)
        if nails:
            light = np.maximum(light, 0.8 * _nail(line, width))
    return pack(body, shade * (1 - light), shade * light)


def _rounded(cover: Field, radius: float) -> Field:
    """Return the shade of a rounded body lit from above: bright inside, darker at the edge."""
    return 0.55 + 0.4 * np.clip(2.0 * blur(cover, radius) - 0.9, 0.0, 1.0) ** 0.7


def _position(start: Point, end: Point) -> Field:
    """Return how far each canvas pixel lies along the way from `start` (0) to `end` (1)."""
    x, y = grid()
    (x0, y0), (x1, y1) = start, end
    along = (x - x0) * (x1 - x0) + (y - y0) * (y1 - y0)
    return (along / ((x1 - x0) ** 2 + (y1 - y0) ** 2)).astype(np.float32)


def _along(knuckle: Point, tip: Point) -> Field:
    return np.clip(_position(knuckle, tip) * 4.0 + 0.4, 0.0, 1.0)


def _joints(knuckle: Point, tip: Point) -> Field:
    position = _position(knuckle, tip)
    creases = [np.exp(-(((position - at) / 0.03) ** 2)) for at in (0.42, 0.47, 0.72)]
    creased: Field = np.max(creases, axis=0)
    return creased


def _nail(line: NDArray[np.float64], width: float) -> Field:
    towards = (line[-1] - line[0]) / np.linalg.norm(line[-1] - line[0])
    tip = line[-1] + 0.18 * width * towards
    return stroke([tip, tip - 0.28 * width * towards], 0.5 * width)
