"""What a photograph meets before a detector is trained with it: crop, colors, padding, mirror, size; faces move along.

Reference: Deng et al., "RetinaFace", CVPR 2020, arXiv:1905.00641, section 4.2 (square crops, mirror, colors); the tries
of a crop as in its PyTorch implementations.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from transforms.augment import mirror, recolor
from transforms.detection.faces import FaceBoxes, Floats, centers
from transforms.view import Image

#: Sides of crops as shares of the image's shorter side.
CROP_SHARES: Final = (0.3, 0.45, 0.6, 0.8, 1.0)
CROP_TRIES: Final = 250
_FEW: Final = 8  # of them, which mostly are enough
#: RGB of what fills up a square: the mean color of ImageNet, which the networks subtract.
PADDING: Final = (123, 117, 104)
#: Drawn from, evenly. Lanczos' filter is not among them: it takes ten times as long and looks like the cubic one.
INTERPOLATIONS: Final = (cv2.INTER_NEAREST, cv2.INTER_LINEAR, cv2.INTER_AREA, cv2.INTER_CUBIC)


class DetectionSample(NamedTuple):
    """An image uint8 [H, W, 3] RGB with its faces."""

    image: Image
    faces: FaceBoxes


class DetectionTransform:
    """Returns square views of photographs, their faces with them: crop, colors, padding, mirror, size, in this order.

    A view is a function of image, faces and generator. Four uniform numbers decide which steps run and how the image is
    resized, before any step draws. Colors change where the image has fewer pixels, before or after it is resized.

    Args:
        size: side of the view in pixels, >= 1.
        crop_prob, color_prob, flip_prob: probability of each step, in [0, 1].
        least_side: faces whose shorter side is less in the view are ignored, in pixels >= 0.
    Raises:
        ValueError: if a number is out of its range.
    """

    def __init__(
        self,
        size: int = 640,
        crop_prob: float = 1.0,
        color_prob: float = 0.5,
        flip_prob: float = 0.5,
        least_side: float = 0.0,
    ) -> None:
        probabilities = (crop_prob, color_prob, flip_prob)
        if bad := [value for value in probabilities if not 0 <= value <= 1]:
            raise ValueError(f"DetectionTransform: a probability must be in [0, 1], got {bad[0]}")
        if size < 1 or least_side < 0:
            raise ValueError(
                f"DetectionTransform: size must be >= 1 and least_side >= 0, got {size} and {least_side} pixels"
            )
        self.size = size
        self.least_side = least_side
        self._probabilities = np.array(probabilities)

    def __call__(self, image: Image, faces: FaceBoxes, rng: np.random.Generator) -> DetectionSample:
        """Return a view uint8 [size, size, 3] of a photograph uint8 [H, W, 3] RGB, which stays unchanged.

        Faces whose center is outside the view are gone; the others' boxes end at its border.
        """
        numbers = rng.random(4)
        crops, recolors, flips = (numbers[:3] < self._probabilities).tolist()
        sample = DetectionSample(image, faces)
        if crops:
            sample = square_crop(sample, rng)
        is_large = sample.image.shape[0] * sample.image.shape[1] > self.size**2
        if recolors and not is_large:
            sample = sample._replace(image=recolor(sample.image, rng))
        sample = pad_to_square(sample)
        if flips:
            sample = mirror_sample(sample)
        sample = resize(sample, self.size, INTERPOLATIONS[int(numbers[3] * len(INTERPOLATIONS))])
        if recolors and is_large:
            sample = sample._replace(image=recolor(sample.image, rng))
        sides = (sample.faces.boxes[:, 2:] - sample.faces.boxes[:, :2]).min(axis=1, initial=np.inf)
        small = sides < self.least_side
        return sample._replace(faces=sample.faces._replace(ignored=sample.faces.ignored | small))


def square_crop(sample: DetectionSample, rng: np.random.Generator) -> DetectionSample:
    """Return a square part of an image, its side one of CROP_SHARES of the shorter side, with a face's center in it.

    250 squares are drawn and the first one taken that has the center of a face which counts; if none has, or there is
    no such face, the whole image stays. Faces whose center is outside are gone, boxes of the others end at the border.
    Draws: 250 times share, column, row.
    """
    height, width = sample.image.shape[:2]
    numbers = rng.random((CROP_TRIES, 3))
    sides = np.maximum(1, (np.array(CROP_SHARES) * min(width, height)).astype(np.int64))
    side = sides[(numbers[:, 0] * len(CROP_SHARES)).astype(np.int64)]
    room = np.array([width, height]) - side[:, None] + 1
    corner = (numbers[:, 1:] * room).astype(np.int64)
    middle = centers(sample.faces.boxes[~sample.faces.ignored])
    good = _first_around(middle, corner[:_FEW], side[:_FEW])
    if good is None:
        good = _first_around(middle, corner, side)
    if good is None:
        return sample
    (left, top), length = corner[good].tolist(), int(side[good])
    image = sample.image[top : top + length, left : left + length]
    moved = sample.faces.moved(1.0, (-left, -top))
    inside = np.all((centers(moved.boxes) > 0) & (centers(moved.boxes) < length), axis=1)
    return DetectionSample(image, moved.take(inside).clipped(length, length))


def _first_around(middle: Floats, corner: NDArray[np.int64], side: NDArray[np.int64]) -> int | None:
    """Return the first of some squares that one of the points [N, 2] lies in; None if there is none."""
    after = middle.T[:, None] - corner.T[:, :, None]  # [2, squares, N]
    within = (after > 0) & (after < side[:, None])
    good = np.flatnonzero((within[0] & within[1]).any(axis=1))
    return int(good[0]) if good.size else None


def pad_to_square(sample: DetectionSample, side: int = 0) -> DetectionSample:
    """Return an image filled up at the right and below with the mean color; coordinates stay.

    Args:
        sample: the image and its faces.
        side: of the square, if that is larger than the image.
    """
    height, width = sample.image.shape[:2]
    side = max(height, width, side)
    if height == width == side:
        return sample
    border = (0, side - height, 0, side - width)
    image = cv2.copyMakeBorder(sample.image, *border, cv2.BORDER_CONSTANT, value=PADDING)
    return sample._replace(image=np.asarray(image, np.uint8))


def mirror_sample(sample: DetectionSample) -> DetectionSample:
    """Return the mirror image; left and right eyes and mouth corners change places."""
    return DetectionSample(mirror(sample.image), sample.faces.mirrored(sample.image.shape[1]))


def resize(sample: DetectionSample, size: int, interpolation: int = cv2.INTER_LINEAR) -> DetectionSample:
    """Return an image stretched to size x size; area averages, which only shrink, give way to the linear filter."""
    height, width = sample.image.shape[:2]
    if interpolation == cv2.INTER_AREA and size > min(height, width):
        interpolation = cv2.INTER_LINEAR
    image = np.asarray(cv2.resize(sample.image, (size, size), interpolation=interpolation), np.uint8)
    return DetectionSample(image, sample.faces.moved((size / width, size / height), 0.0))
