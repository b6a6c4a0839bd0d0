"""Photographs for tests: synthetic faces put into larger backgrounds, and where their five points are."""

from functools import cache
from typing import NamedTuple

import cv2
import numpy as np

from datasets.synthetic.prepare import render_identities
from transforms import TEMPLATE, align

SHAPE = (240, 320)
# Of the drawn faces those that both detectors find at once, at any scale from 0.8 to 1.8.
FOUND = (14, 15, 16, 19, 20, 21)


class Placed(NamedTuple):
    image: np.ndarray  # uint8 [H, W, 3]
    points: np.ndarray  # float64 [5, 2]
    scale: float


@cache
def faces():
    """Return drawn faces, uint8 [6, 112, 112, 3] RGB."""
    return render_identities("photographs", max(FOUND) + 1, 1)[0][list(FOUND)]


def background(rng, shape=SHAPE):
    noise = rng.integers(60, 130, (*shape, 3)).astype(np.uint8)
    return cv2.GaussianBlur(noise, (0, 0), 9)


def place(face, canvas, angle=0.0, scale=1.2, center=None):
    """Put a face into a canvas, in place; return where it is."""
    height, width = canvas.shape[:2]
    rotation = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    at = np.array(center if center is not None else (width / 2, height / 2))
    matrix = np.concatenate([rotation, (at - rotation @ [56, 56])[:, None]], axis=1)
    moved = cv2.warpAffine(face, matrix, (width, height))
    mask = cv2.warpAffine(np.full(face.shape[:2], 255, np.uint8), matrix, (width, height)) > 127
    canvas[mask] = moved[mask]
    return Placed(canvas, align.moved(TEMPLATE, matrix), scale)


def photograph(number=0, seed=0, shape=SHAPE, **how):
    """Return a background with one face."""
    return place(faces()[number], background(np.random.default_rng(seed), shape), **how)


def write(path, image):
    """Write an RGB image in the format of the suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image[..., ::-1])
    return path


class FakeDetector:
    """Answers with what it was told, whatever the image; keeps the images."""

    name, threshold = "fake", 0.5

    def __init__(self, *answers):
        self.answers = list(answers)
        self.seen = []

    def detect(self, image, threshold=None):
        self.seen.append((image, threshold))
        return self.answers.pop(0) if self.answers else []
