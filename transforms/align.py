"""Five points of a photograph -> the similarity that brings them to the template, and the crop: geometry alone."""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from transforms.landmarks import IMAGE_SIZE, TEMPLATE

# Root mean square distance to the template, in pixels of a 112 x 112 crop, above which points are no face's seen from
# any side: profiles have up to 10, mirrored points 22, and of 800 photographs of LFW the worst has 11.1.
MAX_RESIDUAL = 12.0
# Pixels of a 112 x 112 crop for each pixel of the photograph.
SCALES = (0.05, 5.0)

# Crops whose sides are multiples of 128 have the template of 112 x 112 in the middle of 128 x 128: 8 pixels more at the
# left, as InsightFace makes them.
_WIDE, _SHIFT = 128, 8

Array = NDArray[np.float64]
Image = NDArray[np.uint8]


def template_points(size: int = IMAGE_SIZE) -> Array:
    """Return where the five points lie in a crop of size x size, float64 [5, 2], x and y in pixels.

    Raises:
        ValueError: if the size is no multiple of 112 or 128.
    """
    template = TEMPLATE.astype(np.float64)
    if size > 0 and size % IMAGE_SIZE == 0:
        return template * (size / IMAGE_SIZE)
    if size > 0 and size % _WIDE == 0:
        template[:, 0] += _SHIFT
        return template * (size / _WIDE)
    raise ValueError(f"a crop of size {size}: multiples of {IMAGE_SIZE} and {_WIDE} have a template")


def fit_similarity(points: ArrayLike, size: int = IMAGE_SIZE) -> Array:
    """Return the similarity that brings five points nearest to the template: least squares over all five.

    The fit is from the photograph to the crop and never mirrors: it is a complex factor and a shift.

    Args:
        points: [5, 2], x and y in pixels of the photograph, in the order of `TEMPLATE`.
        size: side of the crop in pixels, a multiple of 112 or 128.
    Returns:
        float64 [2, 3]: `matrix @ (x, y, 1)` is a place in the crop.
    Raises:
        ValueError: if there are no five points, they are not finite, they coincide, or no rotation brings them nearer
            to the template than a point does.
    Reference: Umeyama, "Least-squares estimation of transformation parameters between two point patterns", PAMI 1991.
    """
    given = _checked(points)
    source, target = (_complex(array - array.mean(axis=0)) for array in (given, template_points(size)))
    spread = float(np.vdot(source, source).real)
    # Against the magnitude, so that points far out whose differences are rounding coincide too.
    if spread <= (1e-6 * max(1.0, float(np.abs(given).max()))) ** 2:
        raise ValueError("the five points coincide; no similarity follows from them")
    factor = np.vdot(source, target) / spread
    if abs(factor) * math.sqrt(spread) < 1e-6 * math.sqrt(np.vdot(target, target).real):
        raise ValueError("the five points have nothing of the template's shape; are they in another order?")
    rotation = np.array([[factor.real, -factor.imag], [factor.imag, factor.real]])
    shift = template_points(size).mean(axis=0) - rotation @ given.mean(axis=0)
    return np.concatenate([rotation, shift[:, None]], axis=1)


def scale(matrix: Array) -> float:
    """Return how many pixels of the crop one of the photograph becomes."""
    return float(math.hypot(matrix[0, 0], matrix[1, 0]))


def residual(points: ArrayLike, matrix: Array, size: int = IMAGE_SIZE) -> float:
    """Return the root mean square distance of the moved points to the template, in pixels of a 112 x 112 crop."""
    distance = moved(points, matrix) - template_points(size)
    pixel = size / (IMAGE_SIZE if size % IMAGE_SIZE == 0 else _WIDE)
    return float(np.sqrt((distance**2).sum(axis=1).mean())) / pixel


def fit_fault(points: ArrayLike, matrix: Array, size: int = IMAGE_SIZE) -> str:
    """Return in words why a fit is no face's, or "" where it may be one."""
    off = residual(points, matrix, size)
    if off > MAX_RESIDUAL:
        return f"the five points lie {off:.1f} pixels of 112 off the template's shape, more than {MAX_RESIDUAL:g}"
    enlarged = scale(matrix) * IMAGE_SIZE / size
    if not SCALES[0] <= enlarged <= SCALES[1]:
        return f"the face would be scaled by {enlarged:.3g}, which is outside [{SCALES[0]:g}, {SCALES[1]:g}]"
    return ""


def moved(points: ArrayLike, matrix: Array) -> Array:
    """Return where a matrix [2, 3] puts points [N, 2], float64."""
    return np.asarray(points, np.float64) @ matrix[:, :2].T + matrix[:, 2]


def inside(matrix: Array, shape: tuple[int, ...], size: int = IMAGE_SIZE) -> float:
    """Return which share of the crop lies in a photograph [height, width, ...]; the rest of it is black."""
    height, width = shape[:2]
    frame = np.array([[0, 0], [width - 1, 0], [width - 1, height - 1], [0, height - 1]], np.float64)
    crop = np.array([[0, 0], [size - 1, 0], [size - 1, size - 1], [0, size - 1]], np.float64)
    area, _ = cv2.intersectConvexConvex(moved(frame, matrix).astype(np.float32), crop.astype(np.float32))
    return min(1.0, float(area) / (size - 1) ** 2)


def warp(image: Image, matrix: Array, size: int = IMAGE_SIZE) -> Image:
    """Return the crop uint8 [size, size, C] of a photograph uint8 [H, W, C]: bilinear, black beyond its borders."""
    return np.asarray(
        cv2.warpAffine(image, matrix, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT), np.uint8
    )


def _checked(points: ArrayLike) -> Array:
    array = np.asarray(points, np.float64)
    if array.shape != TEMPLATE.shape:
        raise ValueError(f"five points [5, 2] are needed, got {list(array.shape)}")
    if not np.isfinite(array).all():
        raise ValueError("the five points are not finite")
    return array


def _complex(points: Array) -> NDArray[np.complex128]:
    return points[:, 0] + 1j * points[:, 1]
