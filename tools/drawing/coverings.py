"""Veils and scarves. Materials: R the cloth, G its hem or second layer."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tools.drawing.canvas import MIDLINE, blur, fill, grid, mirrored, pack, rim, spline, stroke

Template = NDArray[np.uint8]


def niqab() -> Template:
    """Return a niqab that leaves a slit for the eyes."""
    return _veil([(56, 39), (40, 38), (22, 41), (13, 50), (20, 60), (38, 63), (48, 62), (56, 60)])


def niqab_wide() -> Template:
    """Return a niqab with a wide opening from above the brows to the cheeks."""
    return _veil([(56, 27), (36, 28), (17, 36), (9, 50), (14, 62), (34, 67), (47, 65), (56, 62)])


def half_niqab() -> Template:
    """Return a head scarf that leaves the forehead free, with a veil below the eyes."""
    return _veil([(56, 8), (36, 11), (18, 24), (11, 46), (12, 60), (32, 65), (46, 63), (56, 60)])


def scarf_low() -> Template:
    """Return a knitted scarf wound around chin and mouth."""
    return _wound([(-30, 70), (0, 79), (28, 84), (56, 86), (84, 83), (112, 78), (142, 70)], knitted=True)


def scarf_high() -> Template:
    """Return a scarf pulled up to the nose."""
    return _wound([(-30, 52), (2, 62), (28, 68), (56, 70), (84, 69), (110, 61), (142, 52)], knitted=False)


def _veil(opening_half: ArrayLike) -> Template:
    opening = fill(spline(mirrored(opening_half)))
    x, y = grid()
    across = (x - MIDLINE) / 52.0
    # Below the eyes the cloth falls from the nose in folds that spread out; above, it lies smoothly around the head.
    spread = (x - MIDLINE) / (8.0 + 0.34 * np.clip(y - 50, 4, None))
    falls = np.sin(spread * 3.1) * np.clip((y - 66) / 26, 0, 1)
    nose = np.exp(-(((x - MIDLINE) / 8) ** 2)) * np.exp(-(((y - 68) / 12) ** 2))
    shade = 0.8 - 0.2 * across**2 + 0.16 * falls + 0.12 * nose
    hem = np.clip(blur(opening, 2.2) * 3.0 - 0.4, 0.0, 1.0)
    shade = (shade - 0.22 * blur(opening, 1.2)).astype(np.float32)
    return pack(1.0 - opening, shade * (1 - hem), shade * hem)


def _wound(top_edge: ArrayLike, knitted: bool) -> Template:
    """Return a scarf below `top_edge` [N, 2]: one winding over another."""
    edge = spline(top_edge, closed=False)
    body = fill(np.concatenate([edge, [(200, 220), (-90, 220)]]))
    x, y = grid()
    fold = np.interp(x[0], edge[:, 0], edge[:, 1])
    depth = (y - fold).astype(np.float32)
    overlap = 16.0 + 0.16 * (x - MIDLINE) + 2.0 * np.sin(x / 13.0)
    upper = depth < overlap
    winding = np.where(upper, depth / overlap, np.clip((depth - overlap) / 26.0, 0, 1))
    shade = 0.93 - 0.2 * (winding - 0.42) ** 2 * 3.2 - 0.22 * np.exp(-np.clip(depth - overlap, 0, None) / 2.6) * ~upper
    shade = shade - 0.24 * ((x - MIDLINE) / 70) ** 2 - 0.12 * rim(body, 2.0)
    if knitted:
        shade = shade + 0.06 * np.sin(x * 1.7) * np.sin(depth * 1.25 + np.sin(x * 0.85))
    else:
        shade = shade + 0.05 * np.sin((depth + 0.35 * np.abs(x - MIDLINE)) / 2.3)
    fringe = np.max([stroke(edge + np.array([0, gap]), 1.0) for gap in (5.0, 8.0)], axis=0) * body
    shade = shade.astype(np.float32)
    return pack(body, shade * (1 - fringe), shade * fringe)
