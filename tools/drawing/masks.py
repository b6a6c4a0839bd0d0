"""Face masks. Materials: R the cloth, G straps, bindings and valves, B the metal clip over the nose."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tools.drawing.canvas import (
    MIDLINE,
    Field,
    blur,
    both_sides,
    fill,
    grid,
    mirrored,
    pack,
    rim,
    roundness,
    spline,
    stroke,
)

Template = NDArray[np.uint8]


def surgical() -> Template:
    """Return a pleated surgical mask from the bridge of the nose to under the chin."""
    half = [(56, 56), (44, 59), (29, 65), (13.5, 65), (13.5, 80), (17, 97), (28, 111), (42, 119), (56, 121)]
    return _pleated(half, pleats=(76.0, 87.0, 98.0), loops=([(14, 66), (6, 57), (0, 46)], [(17, 97), (6, 88), (0, 70)]))


def surgical_loose() -> Template:
    """Return a wide surgical mask that gapes at the cheeks."""
    half = [(56, 60), (44, 61), (28, 62), (11, 64), (11, 82), (14, 99), (29, 112), (42, 118), (56, 119)]
    return _pleated(
        half, pleats=(73.0, 83.0, 94.0, 104.0), loops=([(12, 67), (5, 60), (0, 50)], [(15, 99), (4, 90), (-2, 76)])
    )


def cloth() -> Template:
    """Return a contoured cloth mask with a seam down its middle and a binding along its edge."""
    half = [(56, 57), (45, 61), (30, 69), (15, 68), (15, 82), (20, 97), (34, 114), (46, 120), (56, 121)]
    body = fill(spline(mirrored(half)))
    seam = stroke([(56, 50), (57.5, 70), (57.5, 90), (56, 125)], 1.2)
    ridge = np.exp(-(((grid()[0] - MIDLINE) / 9.0) ** 2))
    shade = 0.9 * roundness(46) + 0.07 * ridge - 0.25 * blur(seam, 0.6) - 0.16 * rim(body, 3.0)
    binding = _inner_band(body, 1.6)
    straps = _straps([(15, 69), (6, 60), (0, 48)], [(20, 97), (8, 88), (1, 70)], width=2.2)
    return _assemble(body, shade, binding, straps)


def bandana() -> Template:
    """Return a triangular bandana tied behind the head, its point below the chin."""
    half = [(56, 60), (40, 62), (22, 62), (2, 58), (-12, 55), (-10, 70), (10, 84), (24, 104), (42, 128), (56, 139)]
    body = fill(spline(mirrored(half)))
    x, y = grid()
    # Folds hang from the two knots and meet under the mouth.
    hang = np.hypot(np.abs(x - MIDLINE) - 62, y - 52)
    shade = 0.84 * roundness(58) + 0.07 * np.sin(hang / 4.2) * np.clip((y - 58) / 20, 0, 1) - 0.18 * rim(body, 3.0)
    return _assemble(body, shade, _inner_band(body, 1.8), np.zeros_like(body))


def gaiter() -> Template:
    """Return a stretch neck gaiter pulled up over the nose."""
    half = [(56, 63), (44, 65), (28, 71), (12, 70), (9, 84), (14, 104), (16, 122), (14, 150), (56, 156)]
    body = fill(spline(mirrored(half)))
    x, y = grid()
    drop = y - 7.0 * (1 - ((x - MIDLINE) / 40) ** 2)
    creases = np.sin(drop / 2.6 + 1.3 * np.sin(x / 11.0)) * np.clip((y - 96) / 14, 0, 1)
    shade = 0.88 * roundness(44) + 0.07 * creases - 0.12 * rim(body, 3.0)
    return _assemble(body, shade, _inner_band(body, 1.0), np.zeros_like(body))


def respirator_cup() -> Template:
    """Return a moulded cup respirator with two head straps and a nose clip."""
    half = [(56, 55), (47, 58), (36, 68), (24, 80), (22, 94), (29, 107), (42, 115), (56, 117)]
    body = fill(spline(mirrored(half)))
    x, y = grid()
    radius = np.hypot((x - MIDLINE) / 36, (y - 88) / 32)
    ridge = np.exp(-(((radius - 0.72) / 0.045) ** 2))
    shade = 0.98 - 0.3 * radius**2 + 0.09 * (84 - y) / 30 - 0.12 * ridge - 0.12 * rim(body, 2.0)
    straps = _straps([(26, 80), (8, 66), (-16, 52)], [(24, 98), (8, 90), (-16, 82)], width=3.0)
    clip = stroke(spline(mirrored([(56, 60.5), (50, 62), (44, 66), (44, 66), (50, 62), (56, 60.5)])), 2.2)
    return _assemble(body, shade, np.zeros_like(body), straps, clip)


def respirator_fold() -> Template:
    """Return a flat-fold respirator: two wings that meet in an upright ridge."""
    body = fill(spline(mirrored(_WINGS)))
    return _assemble(body, _wings_shade(body), np.zeros_like(body), _wings_straps())


def respirator_valve() -> Template:
    """Return a flat-fold respirator with an exhalation valve on one wing."""
    body = fill(spline(mirrored(_WINGS)))
    x, y = grid()
    radius = np.hypot(x - 77, y - 88)
    valve = np.clip(10.5 - radius, 0, 1).astype(np.float32)
    grill = 0.2 * (np.sin((y - 88) * 1.9) > 0.3) * (radius < 7.5)
    shade = np.where(valve > 0, 0.93 - grill - 0.2 * (np.abs(radius - 8.5) < 0.7), _wings_shade(body))
    return _assemble(body, shade.astype(np.float32), valve, _wings_straps())


_WINGS = [(56, 52), (48, 58), (34, 67), (17, 73), (15, 84), (22, 99), (38, 113), (56, 121)]


def _wings_shade(body: Field) -> Field:
    x, y = grid()
    lit = 0.93 - 0.05 * np.tanh((x - MIDLINE) / 2.0) - 0.003 * np.abs(x - MIDLINE)
    weld = np.exp(-(((x - MIDLINE) / 0.9) ** 2)) + 0.6 * np.exp(-(((y - 74 - 0.12 * np.abs(x - MIDLINE)) / 0.8) ** 2))
    return lit - 0.14 * weld - 0.16 * rim(body, 2.0)


def _wings_straps() -> Field:
    return _straps([(17, 74), (8, 62), (1, 48)], [(17, 92), (7, 84), (0, 68)], width=1.6)


def _pleated(half: ArrayLike, pleats: tuple[float, ...], loops: tuple[ArrayLike, ArrayLike]) -> Template:
    body = fill(spline(mirrored(half)))
    x, y = grid()
    drop = y - 5.0 * (1 - ((x - MIDLINE) / 40) ** 2)
    shade = 0.95 * roundness(46) - 0.15 * rim(body, 3.0) - 0.05 * np.clip((y - 104) / 14, 0, 1)
    for pleat in pleats:
        below = drop - pleat
        # The upper layer overlaps: a sharp shadow under its edge, a soft light on it.
        shade = (
            shade
            - 0.17 * np.exp(-np.clip(below, 0, None) / 1.5) * np.clip(below / 0.8 + 0.5, 0, 1)
            + 0.05 * np.exp(-((below + 1.5) ** 2) / 2)
        )
    binding = _inner_band(body, 2.0)
    wire = np.exp(-(((drop - np.asarray(half)[0][1] + 1.0) / 0.9) ** 2)) * (np.abs(x - MIDLINE) < 22)
    return _assemble(body, (shade - 0.08 * wire).astype(np.float32), binding, _straps(*loops, width=1.5))


def _straps(upper: ArrayLike, lower: ArrayLike, width: float) -> Field:
    lines = [side for line in (upper, lower) for side in both_sides(spline(line, closed=False))]
    return np.max([stroke(line, width) for line in lines], axis=0)


def _inner_band(body: Field, width: float) -> Field:
    """Return a band along the inside of the edge, `width` face pixels wide."""
    return np.clip(rim(body, width) * 1.6 - 0.5, 0.0, 1.0)


def _assemble(body: Field, shade: Field, binding: Field, straps: Field, metal: Field | None = None) -> Template:
    """Return the mask with `straps` behind its `body`, `binding` on it and `metal` over the nose."""
    clip = np.zeros_like(body) if metal is None else metal * body
    # Outside the body all is strap, even where nothing is covered, so that an interpolated strap edge shows no cloth.
    behind = 1.0 - np.clip(2.0 * body, 0.0, 1.0)
    second = np.maximum(binding, behind) * (1 - clip)
    tone = np.where(behind > 0.5, 0.82, shade)
    return pack(np.maximum(body, straps), tone * (1 - second) * (1 - clip), tone * second, 0.75 * clip)
