"""Anti-aliased shapes on a template canvas, in face coordinates.

Face coordinates are pixels of an aligned 112 x 112 crop (see transforms.landmarks). The canvas reaches beyond the crop
on every side, so that a moved, turned or enlarged template still covers it. Coverages and shades are float32
[CANVAS_SIZE, CANVAS_SIZE] in [0, 1].
"""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from transforms.painting.placement import CANVAS_MARGIN, CANVAS_SCALE, CANVAS_SIZE

Field = NDArray[np.float32]
MIDLINE = 56.0  # the face's axis of symmetry, in face coordinates
_OVERSAMPLING = 4
_FRACTION_BITS = 4  # OpenCV's fixed-point vertices


@lru_cache(maxsize=1)
def grid() -> tuple[Field, Field]:
    """Return the face coordinates x and y of every canvas pixel."""
    axis = ((np.arange(CANVAS_SIZE) + 0.5) / CANVAS_SCALE - 0.5 - CANVAS_MARGIN).astype(np.float32)
    x, y = np.meshgrid(axis, axis)
    return x, y


def spline(points: ArrayLike, closed: bool = True, steps: int = 16) -> NDArray[np.float64]:
    """Return points along the Catmull-Rom curve through `points` [N, 2]."""
    knots = np.asarray(points, dtype=np.float64)
    padded = (
        np.concatenate([knots[-1:], knots, knots[:2]]) if closed else np.concatenate([knots[:1], knots, knots[-1:]])
    )
    t = np.linspace(0.0, 1.0, steps, endpoint=False)[:, None]
    segments = []
    for a, b, c, d in zip(padded[:-3], padded[1:-2], padded[2:-1], padded[3:], strict=True):
        segments.append(
            0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - 3 * c + d - a) * t**3)
        )
    if not closed:
        segments.append(knots[-1:])
    return np.concatenate(segments)


def mirrored(half: ArrayLike) -> NDArray[np.float64]:
    """Return the closed outline of `half` [N, 2], from mid-line to mid-line round the left, and its mirror image."""
    left = np.asarray(half, dtype=np.float64)
    right = left[1:-1][::-1] * [-1.0, 1.0] + [2 * MIDLINE, 0.0]
    return np.concatenate([left, right])


def both_sides(points: ArrayLike) -> list[NDArray[np.float64]]:
    """Return `points` [N, 2] and their mirror image about the mid-line."""
    left = np.asarray(points, dtype=np.float64)
    return [left, left * [-1.0, 1.0] + [2 * MIDLINE, 0.0]]


def fill(outline: ArrayLike) -> Field:
    """Return the coverage of the polygon `outline` [N, 2]."""
    large = _large_canvas()
    cv2.fillPoly(large, [_fixed_point(outline)], 255, cv2.LINE_8, _FRACTION_BITS)
    return _reduce(large)


def stroke(line: ArrayLike, width: float, closed: bool = False) -> Field:
    """Return the coverage of a line through `line` [N, 2], `width` pixels of the face wide, with round ends."""
    large = _large_canvas()
    thickness = max(1, round(width * CANVAS_SCALE * _OVERSAMPLING))
    cv2.polylines(large, [_fixed_point(line)], closed, 255, thickness, cv2.LINE_8, _FRACTION_BITS)
    return _reduce(large)


def blur(field: Field, sigma: float) -> Field:
    """Return `field` smoothed by a Gaussian of `sigma` face pixels."""
    smooth = cv2.GaussianBlur(field, (0, 0), sigma * CANVAS_SCALE, borderType=cv2.BORDER_REPLICATE)
    return np.asarray(smooth, np.float32)


def rim(coverage: Field, sigma: float) -> Field:
    """Return 0 deep inside a coverage, rising to 1 at its edge and beyond."""
    return np.clip(2.0 - 2.0 * blur(coverage, sigma), 0.0, 1.0)


def roundness(half_width: float) -> Field:
    """Return the shade of an upright cylinder about the mid-line: 1 in front, darker towards the sides."""
    x, _ = grid()
    return 1.0 - 0.32 * np.clip(np.abs(x - MIDLINE) / half_width, 0.0, 1.2) ** 2


def pack(alpha: Field, first: Field, second: Field | None = None, third: Field | None = None) -> NDArray[np.uint8]:
    """Return a template, uint8 [CANVAS_SIZE, CANVAS_SIZE, 4]: R, G, B the shades of three materials, A the coverage."""
    empty = np.zeros_like(alpha)
    planes = [first, empty if second is None else second, empty if third is None else third, alpha]
    return np.rint(255.0 * np.clip(np.stack(planes, axis=-1), 0.0, 1.0)).astype(np.uint8)


def _large_canvas() -> NDArray[np.uint8]:
    side = CANVAS_SIZE * _OVERSAMPLING
    return np.zeros((side, side), np.uint8)


def _fixed_point(points: ArrayLike) -> NDArray[np.int32]:
    pixels = (np.asarray(points, dtype=np.float64) + CANVAS_MARGIN + 0.5) * CANVAS_SCALE * _OVERSAMPLING - 0.5
    return np.rint(pixels * 2**_FRACTION_BITS).astype(np.int32)


def _reduce(large: NDArray[np.uint8]) -> Field:
    return cv2.resize(large, (CANVAS_SIZE, CANVAS_SIZE), interpolation=cv2.INTER_AREA).astype(np.float32) / 255.0
