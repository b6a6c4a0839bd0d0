"""Where an occluder lands: homographies from a template's canvas to the crop.

A template is drawn in face coordinates (pixels of an aligned crop) on a larger canvas; face coordinate v is canvas
pixel (v + CANVAS_MARGIN + 0.5) * CANVAS_SCALE - 0.5.
"""

from __future__ import annotations

import math
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from transforms.landmarks import IMAGE_SIZE, TEMPLATE

CANVAS_MARGIN: Final = 24  # face pixels beyond the crop on every side
CANVAS_SCALE: Final = 1.5  # canvas pixels per face pixel
CANVAS_SIZE: Final = 240  # (112 + 2 * 24) * 1.5

LANDMARK_JITTER: Final = 3.0
MAX_SHIFT: Final = 5.0
SCALES: Final = (0.95, 1.10)
MAX_ROTATION: Final = 7.0
_MAX_PERSPECTIVE: Final = 1.2e-3  # per pixel: 50 pixels from the centre a length changes by up to 6 %

Matrix = NDArray[np.float64]

_CENTRE: Final = (IMAGE_SIZE / 2.0, 66.0)  # between eyes and mouth: turning about it keeps the occluder on the face
# The least-squares affine map of the template onto five moved points is moved.T @ _TEMPLATE_PSEUDOINVERSE.
_TEMPLATE_PSEUDOINVERSE: Final[Matrix] = np.linalg.pinv(np.concatenate([TEMPLATE, np.ones((5, 1))], axis=1)).T
_OFFSET: Final = 0.5 / CANVAS_SCALE - 0.5 - CANVAS_MARGIN
_CANVAS_TO_FACE: Final[Matrix] = np.array([[1 / CANVAS_SCALE, 0, _OFFSET], [0, 1 / CANVAS_SCALE, _OFFSET], [0, 0, 1.0]])
_MIRRORED_CANVAS_TO_FACE: Final[Matrix] = np.array([[-1.0, 0, IMAGE_SIZE], [0, 1, 0], [0, 0, 1]]) @ _CANVAS_TO_FACE


def face_placement(rng: np.random.Generator) -> Matrix:
    """Draw a homography [3, 3] from canvas to crop that puts a worn thing on the face.

    The five template points are moved by up to 3 pixels each way and followed by an affine fit; then come a scale in
    [0.95, 1.10], a rotation of up to 7 degrees, a shift of up to 5 pixels each way and a perspective tilt. Half of the
    time the template is mirrored.

    Draws: landmarks (5, 2), scale, angle, shift (2), tilt (2), mirror.
    """
    landmarks = TEMPLATE + rng.uniform(-LANDMARK_JITTER, LANDMARK_JITTER, (5, 2))
    scale = rng.uniform(*SCALES)
    angle = rng.uniform(-MAX_ROTATION, MAX_ROTATION)
    shift = rng.uniform(-MAX_SHIFT, MAX_SHIFT, 2)
    tilt = rng.uniform(-_MAX_PERSPECTIVE, _MAX_PERSPECTIVE, 2)
    canvas_to_face = _MIRRORED_CANVAS_TO_FACE if rng.random() < 0.5 else _CANVAS_TO_FACE
    follow = np.eye(3)
    follow[:2] = landmarks.T @ _TEMPLATE_PSEUDOINVERSE
    return turn(scale, angle, _CENTRE, _CENTRE + shift, tilt) @ follow @ canvas_to_face


def free_placement(
    rng: np.random.Generator, anchor: tuple[float, float], target: NDArray[np.float64], angle: float
) -> Matrix:
    """Draw a homography [3, 3] that puts the template point `anchor` on the crop point `target`, turned by `angle`.

    Draws: scale in [0.95, 1.10], tilt (2), mirror.
    """
    scale = rng.uniform(*SCALES)
    tilt = rng.uniform(-_MAX_PERSPECTIVE, _MAX_PERSPECTIVE, 2)
    mirror = rng.random() < 0.5
    if mirror:
        anchor = (IMAGE_SIZE - anchor[0], anchor[1])
    return turn(scale, angle, anchor, target, tilt) @ (_MIRRORED_CANVAS_TO_FACE if mirror else _CANVAS_TO_FACE)


def turn(
    scale: float,
    angle: float,
    centre: tuple[float, float],
    target: NDArray[np.float64],
    tilt: NDArray[np.float64] | tuple[float, float] = (0.0, 0.0),
) -> Matrix:
    """Return the homography that scales, turns (degrees, clockwise) and tilts about `centre`, moved to `target`."""
    cos, sin = scale * math.cos(math.radians(angle)), scale * math.sin(math.radians(angle))
    (x, y), (u, v), (p, q) = centre, target, tilt
    about_centre = np.array([[cos + u * p, u * q - sin, u], [sin + v * p, cos + v * q, v], [p, q, 1.0]])
    return about_centre @ np.array([[1.0, 0, -x], [0, 1.0, -y], [0, 0, 1.0]])


def warp(template: NDArray[np.uint8], canvas_to_crop: Matrix) -> NDArray[np.uint8]:
    """Return `template` uint8 [CANVAS_SIZE, CANVAS_SIZE, C] seen in the crop: uint8 [112, 112, C].

    Beyond the canvas its border goes on, so cloth that leaves the canvas never ends inside the crop.
    """
    size = (IMAGE_SIZE, IMAGE_SIZE)
    warped = cv2.warpPerspective(
        template, canvas_to_crop, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    return np.asarray(warped, np.uint8)
