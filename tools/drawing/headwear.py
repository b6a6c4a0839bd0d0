"""Caps and fringes.

Materials: a cap's R is the crown, G the brim or cuff, B the emblem; a fringe's R is the hair, G its lighter strands.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tools.drawing.canvas import MIDLINE, Field, blur, fill, grid, mirrored, pack, rim, spline

Template = NDArray[np.uint8]


def cap_brim() -> Template:
    """Return a cap whose arched brim shows its edge and underside above the brows."""
    x, y = grid()
    brim = fill(spline(mirrored([(56, 12), (34, 15), (12, 26), (3, 36), (10, 40), (28, 33), (56, 30)])))
    crown = fill(spline(mirrored([(56, -60), (10, -50), (-2, 0), (5, 30), (24, 22), (56, 19)])))
    arch = y - 12 - 0.0075 * (x - MIDLINE) ** 2
    seams = np.exp(-(((x - MIDLINE) / 0.8) ** 2)) + np.exp(-(((np.abs(x - MIDLINE) - 26 - 0.2 * y) / 0.8) ** 2))
    crown_shade = 0.9 - 0.3 * ((x - MIDLINE) / 60) ** 2 - 0.12 * seams
    brim_shade = 0.92 - 0.2 * ((x - MIDLINE) / 54) ** 2 - 0.4 * np.clip((arch - 13.5) / 4, 0, 1)
    stitches = 0.07 * (np.sin(arch * 1.9) > 0.6)
    emblem = np.clip(9 - np.hypot((x - MIDLINE) * 0.8, y - 2), 0, 1) * (1 - brim)
    tone = np.where(brim > 0.5, brim_shade - stitches, crown_shade - 0.25 * blur(brim, 2.0))
    return pack(np.maximum(crown, brim), tone * (1 - brim) * (1 - emblem), tone * brim, tone * emblem)


def cap_tilted() -> Template:
    """Return a cap with a flat brim pulled low and to one side."""
    x, y = grid()
    brim = fill(
        spline([(4, 26), (30, 16), (62, 15), (94, 24), (106, 36), (100, 42), (76, 37), (44, 36), (14, 38), (2, 34)])
    )
    crown = fill(spline([(-6, -60), (118, -60), (114, 0), (106, 36), (60, 24), (4, 30), (-4, 0)]))
    seams = np.exp(-(((x - 66 + 0.1 * y) / 0.8) ** 2)) + np.exp(-(((x - 24 - 0.1 * y) / 0.8) ** 2))
    crown_shade = 0.88 - 0.26 * ((x - 66) / 60) ** 2 - 0.1 * seams
    brim_shade = 0.95 - 0.02 * np.clip(y - 20, 0, 20) - 0.3 * rim(brim, 1.2)
    tone = np.where(brim > 0.5, brim_shade, crown_shade - 0.25 * blur(brim, 2.0)).astype(np.float32)
    return pack(np.maximum(crown, brim), tone * (1 - brim), tone * brim)


def beanie() -> Template:
    """Return a knitted cap with a folded, ribbed cuff."""
    x, y = grid()
    bottom = [(-8, 40), (0, 36), (22, 29), (56, 26), (90, 29), (112, 36), (120, 40)]
    edge = spline(bottom, closed=False)
    body = fill(np.concatenate([edge, [(130, -120), (-20, -120)]]))
    height = (np.interp(x[0], edge[:, 0], edge[:, 1]) - y).astype(np.float32)
    cuff = np.clip(20.5 - height, 0, 1)
    ribs = np.sin((x - MIDLINE) * (1.5 + 0.25 * ((x - MIDLINE) / 56) ** 2))
    round_head = 0.9 - 0.34 * ((x - MIDLINE) / 62) ** 2
    under_cuff = 0.2 * np.exp(-np.clip(height - 20, 0, None) / 2.0) * (height > 20)
    tone = round_head + 0.08 * ribs - under_cuff - 0.12 * np.clip(1 - height / 3, 0, 1)
    return pack(body, tone * (1 - cuff), tone * cuff)


def straight_fringe() -> Template:
    """Return bangs cut straight above the eyes."""
    roots = np.linspace(-16, 128, 150)
    tips = 41 - 5.5 * ((roots - MIDLINE) / 50) ** 2
    return _hair(roots, tips, lean=2.0, seed=11)


def side_fringe() -> Template:
    """Return a fringe swept across the forehead to one side."""
    roots = np.linspace(-40, 120, 150)
    tips = np.interp(roots, [-40, 0, 40, 90, 120], [56, 50, 39, 24, 40])
    return _hair(roots, tips, lean=26.0, seed=12)


def curtain_fringe() -> Template:
    """Return a fringe parted in the middle that hangs down at both temples."""
    roots = np.concatenate([np.linspace(-20, 55, 75), np.linspace(57, 132, 75)])
    away = np.abs(roots - MIDLINE)
    return _hair(roots, 15 + 1.15 * away, lean=np.sign(roots - MIDLINE) * 9.0, seed=13)


def _hair(
    roots: NDArray[np.float64], tips: NDArray[np.float64], lean: float | NDArray[np.float64], seed: int
) -> Template:
    """Return locks that hang from `roots` (x, at the top) to `tips` (y) and drift sideways by `lean` pixels."""
    rng = np.random.RandomState(seed)  # its stream is frozen, so the committed template can be drawn again
    leans = np.broadcast_to(lean, roots.shape)
    alpha, tone = np.zeros_like(grid()[0]), np.full_like(grid()[0], 0.55)
    light = np.zeros_like(alpha)
    for index in rng.permutation(len(roots)):
        drift = leans[index] + rng.uniform(-4, 4)
        end = tips[index] + rng.uniform(-6, 4)
        start = roots[index] - 0.4 * drift
        line = spline(
            [(start, -30), (start + 0.2 * drift, 0), (start + 0.6 * drift, 0.6 * end), (start + drift, end)],
            closed=False,
        )
        lock = _lock(line, rng.uniform(1.2, 2.6))
        brightness, is_light = rng.uniform(0.5, 0.95), rng.uniform() < 0.25
        tone += lock * (brightness - tone)
        light += lock * (float(is_light) - light)
        alpha = np.maximum(alpha, lock)
    y = grid()[1]
    tone = tone * (1.0 + 0.14 * np.exp(-(((y - 12) / 7) ** 2))) - 0.1 * rim(alpha, 1.5)
    return pack(np.clip(1.25 * alpha, 0, 1), tone * (1 - light), tone * light)


def _lock(line: NDArray[np.float64], width: float) -> Field:
    """Return a lock of hair along `line`, `width` face pixels wide at its root and pointed at its tip."""
    along = np.gradient(line, axis=0)
    normal = np.stack([-along[:, 1], along[:, 0]], axis=1) / np.maximum(np.hypot(*along.T), 1e-9)[:, None]
    taper = width * np.sqrt(np.clip(1.0 - np.linspace(0, 1, len(line)) ** 3, 0, 1))[:, None]
    return fill(np.concatenate([line + taper * normal, (line - taper * normal)[::-1]]))
