"""Sunglasses. Materials: R the lenses, G frame, bridge and temples, B reflections on the lenses."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tools.drawing.canvas import blur, both_sides, fill, grid, pack, spline, stroke

Template = NDArray[np.uint8]


def aviator() -> Template:
    """Return thin-framed glasses with teardrop lenses."""
    lens = [(52, 46), (50, 58), (44, 65), (33, 66), (24, 60), (20, 50), (23, 44), (36, 43), (47, 43)]
    return _glasses(lens, frame_width=1.3, bridges=[[(50, 45), (56, 44), (62, 45)], [(51, 50), (56, 48), (61, 50)]])


def wayfarer() -> Template:
    """Return thick-framed glasses with trapezoid lenses."""
    lens = [(50, 45), (49, 55), (44, 61), (32, 62), (24, 58), (21, 48), (21, 43), (36, 42.5)]
    return _glasses(lens, frame_width=3.6, bridges=[[(49, 47), (56, 46), (63, 47)]])


def round_lenses() -> Template:
    """Return wire-framed glasses with round lenses."""
    angle = np.linspace(0, 2 * np.pi, 20, endpoint=False)
    lens = np.stack([37.0 + 13.5 * np.cos(angle), 53.0 + 13.0 * np.sin(angle)], axis=1)
    return _glasses(lens, frame_width=1.5, bridges=[[(50, 51), (56, 48.5), (62, 51)]])


def shield() -> Template:
    """Return wrap-around sports glasses."""
    lens = [(56, 43), (38, 40), (20, 42), (12, 47), (15, 57), (26, 65), (42, 65), (51, 60), (56, 56)]
    return _glasses(lens, frame_width=2.2, bridges=[[(50, 44), (56, 43), (62, 44)]])


def _glasses(lens: ArrayLike, frame_width: float, bridges: list[list[tuple[float, float]]]) -> Template:
    """Return glasses: `lens` [N, 2] and its mirror image, their frames, `bridges` between them, temples to the ears."""
    outlines = both_sides(spline(lens))
    glass = np.max([fill(outline) for outline in outlines], axis=0)
    lines = [stroke(outline, frame_width, closed=True) for outline in outlines]
    lines += [stroke(spline(bridge, closed=False), max(1.6, frame_width * 0.8)) for bridge in bridges]
    left, top = outlines[0].min(axis=0)
    lines += [
        stroke(side, max(1.8, frame_width)) for side in both_sides([(left + 1, top + 4), (6, top + 2), (-8, top + 1)])
    ]
    frame = np.max(lines, axis=0)
    x, y = grid()
    tint = 0.5 + 0.4 * np.clip((y - top) / 22, 0, 1)
    # Two slanted streaks of sky, and a pale patch low on each lens.
    slant = (x - 38 + 0.7 * (y - 52)) % 35.2
    streaks = np.exp(-(((slant - 4) / 2.6) ** 2)) + 0.6 * np.exp(-(((slant - 11) / 1.4) ** 2))
    gloss = (0.55 * streaks + 0.25 * np.clip((y - 56) / 10, 0, 1)) * glass
    edge = np.clip(1.5 * frame, 0, 1)
    outside = np.maximum(edge, 1.0 - np.clip(2.0 * glass, 0, 1))
    relief = np.clip(0.75 + 0.9 * (blur(frame, 0.8) - blur(np.roll(frame, 2, axis=0), 0.8)), 0.35, 1.0)
    return pack(np.maximum(glass, frame), tint * (1 - outside), relief * outside, gloss * (1 - outside))
