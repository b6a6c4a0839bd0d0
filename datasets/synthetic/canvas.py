"""Smooth, anti-aliased drawing on an 8-bit image."""

from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]
Points = NDArray[np.float64]
Rgb = NDArray[np.float64]

SHIFT = 4  # bits of sub-pixel precision in OpenCV's drawing calls


@lru_cache(maxsize=64)
def _basis(num_points: int, closed: bool) -> NDArray[np.float64]:
    """Return the matrix [samples, num_points] of a Catmull-Rom curve through control points, four samples a segment."""
    segments = num_points if closed else num_points - 1
    t = np.arange(4) / 4.0
    weights = 0.5 * np.stack(
        [-t + 2 * t**2 - t**3, 2 - 5 * t**2 + 3 * t**3, t + 4 * t**2 - 3 * t**3, -(t**2) + t**3], axis=1
    )
    matrix = np.zeros((4 * segments + (not closed), num_points))
    for segment in range(segments):
        for offset in range(4):
            point = segment + offset - 1
            column = point % num_points if closed else min(max(point, 0), num_points - 1)
            matrix[4 * segment : 4 * segment + 4, column] += weights[:, offset]
    if not closed:
        matrix[-1, -1] = 1.0
    return matrix


def _fixed_point(points: Points) -> NDArray[np.int32]:
    """Return positions as OpenCV's fixed-point integers."""
    return np.rint(points * 2**SHIFT).astype(np.int32)


class Canvas:
    """An 8-bit image, gray [h, w] or RGB [h, w, 3], that is drawn on in place.

    Points are float64 [n, 2] pixel positions, (x, y); colors are RGB [3] or one gray float.
    """

    def __init__(self, image: Image) -> None:
        self.image = image

    def fill(self, points: Points, color: Rgb | float) -> None:
        """Fill the closed smooth curve through control points."""
        self.polygon(_basis(len(points), True) @ points, color)

    def polygon(self, points: Points, color: Rgb | float) -> None:
        """Fill a polygon."""
        cv2.fillPoly(self.image, [_fixed_point(points)], scalar(color), cv2.LINE_AA, SHIFT)

    def stroke(self, points: Points, color: Rgb | float, thickness: int = 1) -> None:
        """Draw the open smooth curve through control points."""
        curve = _fixed_point(_basis(len(points), False) @ points)
        cv2.polylines(self.image, [curve], False, scalar(color), thickness, cv2.LINE_AA, SHIFT)

    def disc(self, center: Points, radius: float, color: Rgb | float) -> None:
        """Fill a disc."""
        x, y = _fixed_point(center).tolist()
        cv2.circle(self.image, (x, y), int(radius * 2**SHIFT), scalar(color), -1, cv2.LINE_AA, SHIFT)


def scalar(color: Rgb | float) -> tuple[float, ...]:
    """Return a color, clipped to 0..255, or a gray value as OpenCV takes it."""
    if isinstance(color, float):
        return (color,)
    return tuple(min(255.0, max(0.0, value)) for value in color.tolist())
