"""Where an occluder lands: homographies from a template's canvas to the crop, and the box that it fills.

A template is drawn in face coordinates (pixels of an aligned crop) on a larger canvas; face coordinate v is canvas
pixel (v + CANVAS_MARGIN + 0.5) * CANVAS_SCALE - 0.5.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Final, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from transforms.landmarks import IMAGE_SIZE, TEMPLATE
from transforms.painting.dice import Dice

CANVAS_MARGIN: Final = 24  # face pixels beyond the crop on every side
CANVAS_SCALE: Final = 1.5  # canvas pixels per face pixel
CANVAS_SIZE: Final = 240  # (112 + 2 * 24) * 1.5

LANDMARK_JITTER: Final = 3
MAX_SHIFT: Final = 5
SCALES: Final = (0.95, 1.10)
MAX_ROTATION: Final = 7.0
MAX_SWING: Final = 60.0
_MAX_PERSPECTIVE: Final = 1.2e-3  # per pixel: 50 pixels from the center a length changes by up to 6 %

Matrix = NDArray[np.float64]
Point = tuple[float, float]

CENTER: Final = (IMAGE_SIZE / 2.0, 66.0)  # between eyes and mouth: turning about it keeps the occluder on the face
# The least-squares affine map of the template onto five moved points is moved.T @ _TEMPLATE_PSEUDOINVERSE.
_TEMPLATE_PSEUDOINVERSE: Final[Matrix] = np.linalg.pinv(np.concatenate([TEMPLATE, np.ones((5, 1))], axis=1)).T
_OFFSET: Final = 0.5 / CANVAS_SCALE - 0.5 - CANVAS_MARGIN
_CANVAS_TO_FACE: Final[Matrix] = np.array([[1 / CANVAS_SCALE, 0, _OFFSET], [0, 1 / CANVAS_SCALE, _OFFSET], [0, 0, 1.0]])
_MIRRORED_CANVAS_TO_FACE: Final[Matrix] = np.array([[-1.0, 0, IMAGE_SIZE], [0, 1, 0], [0, 0, 1]]) @ _CANVAS_TO_FACE
# Both at once: five moved points [5, 2] give the affine map from the canvas, moved.T @ this, with the last row 0 0 1.
_FOLLOW: Final[tuple[Matrix, Matrix]] = (
    _TEMPLATE_PSEUDOINVERSE @ _CANVAS_TO_FACE,
    _TEMPLATE_PSEUDOINVERSE @ _MIRRORED_CANVAS_TO_FACE,
)


class Box(NamedTuple):
    """A part of the crop or of its surroundings, in whole pixels; the ends are beyond it."""

    top: int
    bottom: int
    left: int
    right: int

    @property
    def slices(self) -> tuple[slice, slice]:
        """The rows and columns."""
        return slice(self.top, self.bottom), slice(self.left, self.right)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height, as OpenCV wants them."""
        return self.right - self.left, self.bottom - self.top


def face_placement(dice: Dice) -> Matrix:
    """Draw a homography [3, 3] from canvas to crop that puts a worn thing on the face.

    The five template points are moved by up to 3 pixels each way and followed by an affine fit; then come a scale in
    [0.95, 1.10], a rotation of up to 7 degrees and a perspective tilt. Half of the time the template is mirrored.

    Draws: landmarks (5, 2), scale, angle, tilt (2), mirror.
    """
    landmarks = TEMPLATE + np.array(dice.around_zero(LANDMARK_JITTER, 10)).reshape(5, 2)
    scale = dice.uniform(*SCALES)
    angle = dice.uniform(-MAX_ROTATION, MAX_ROTATION)
    p, q = dice.around_zero(_MAX_PERSPECTIVE, 2)
    follow = np.eye(3)
    follow[:2] = landmarks.T @ _FOLLOW[dice.chance(0.5)]
    return turn(scale, angle, CENTER, CENTER, (p, q)) @ follow


def free_placement(dice: Dice, anchor: Point) -> Matrix:
    """Draw a homography [3, 3] from canvas to crop that puts the template point `anchor` on CENTER.

    Draws: angle in [-60, 60] degrees, scale in [0.95, 1.10], tilt (2), mirror.
    """
    angle = dice.uniform(-MAX_SWING, MAX_SWING)
    scale = dice.uniform(*SCALES)
    p, q = dice.around_zero(_MAX_PERSPECTIVE, 2)
    mirror = dice.chance(0.5)
    if mirror:
        anchor = (IMAGE_SIZE - anchor[0], anchor[1])
    return turn(scale, angle, anchor, CENTER, (p, q)) @ (_MIRRORED_CANVAS_TO_FACE if mirror else _CANVAS_TO_FACE)


def turn(scale: float, angle: float, center: Point, target: Point, tilt: Point = (0.0, 0.0)) -> Matrix:
    """Return the homography that scales, turns (degrees, clockwise) and tilts about `center`, moved to `target`."""
    cos, sin = scale * math.cos(math.radians(angle)), scale * math.sin(math.radians(angle))
    (x, y), (u, v), (p, q) = center, target, tilt
    about_center = ((cos + u * p, u * q - sin, u), (sin + v * p, cos + v * q, v), (p, q, 1.0))
    return np.array([(a, b, c - a * x - b * y) for a, b, c in about_center])


def box_around(points: Iterable[Point], margin: int = 0) -> Box:
    """Return the part of the crop, with a margin around it, that holds the hull of points; at least one pixel."""
    columns, rows = zip(*points, strict=True)
    return Box(*_clipped(min(rows), max(rows), margin), *_clipped(min(columns), max(columns), margin))


def project(points: Iterable[Point], matrix: Matrix) -> list[Point]:
    """Return where a homography [3, 3] sends points."""
    (a, b, c), (d, e, f), (p, q, s) = matrix.tolist()
    depths = [(x, y, p * x + q * y + s) for x, y in points]
    return [((a * x + b * y + c) / depth, (d * x + e * y + f) / depth) for x, y, depth in depths]


def warp(layers: NDArray[np.uint8], canvas_to_crop: Matrix, box: Box) -> NDArray[np.uint8]:
    """Return what a box of the crop shows of a canvas: uint8 [height, width, C].

    Beyond the canvas its border goes on, so cloth that leaves the canvas never ends inside the crop.
    """
    to_box = canvas_to_crop.copy()
    to_box[0] -= box.left * to_box[2]
    to_box[1] -= box.top * to_box[2]
    warped = cv2.warpPerspective(layers, to_box, box.size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(warped, np.uint8)


def _clipped(low: float, high: float, margin: int) -> tuple[int, int]:
    """Return the first pixel of an interval and the one after its last, within the crop and a margin."""
    first = min(max(math.floor(low) - 1, -margin), IMAGE_SIZE + margin - 1)
    return first, max(min(math.ceil(high) + 2, IMAGE_SIZE + margin), first + 1)
