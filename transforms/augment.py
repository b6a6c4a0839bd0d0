"""Quality augmentations as AdaFace's training defines them.

Reference: Kim, Jain, Liu, "AdaFace: Quality Adaptive Margin for Face Recognition", CVPR 2022, arXiv:2204.00964.
"""

from __future__ import annotations

import math
from typing import Final

import cv2
import numpy as np

from transforms.landmarks import IMAGE_SIZE
from transforms.view import Image, View, check_image

SIDE_RATIOS: Final = (0.2, 1.0)
INTERPOLATIONS: Final = (cv2.INTER_NEAREST, cv2.INTER_LINEAR, cv2.INTER_AREA, cv2.INTER_CUBIC, cv2.INTER_LANCZOS4)
CROP_SCALES: Final = (0.2, 1.0)
CROP_RATIOS: Final = (0.75, 4 / 3)
PHOTOMETRIC_STRENGTH: Final = 0.5
_CROP_TRIALS: Final = 10


def flip(view: View) -> View:
    """Return the mirror image of `view`, its mask with it."""
    return View(*map(mirror, view))


def mirror(pixels: Image) -> Image:
    """Return the mirror image of an image or a mask."""
    return np.asarray(cv2.flip(pixels, 1), np.uint8)


def low_resolution(image: Image, rng: np.random.Generator) -> Image:
    """Return `image` shrunk to a side ratio in [0.2, 1] and enlarged again, each by one of five interpolations.

    Draws: ratio, index down, index up.
    """
    check_image(image, "low_resolution")
    side = int(rng.uniform(*SIDE_RATIOS) * IMAGE_SIZE)
    down, up = rng.integers(len(INTERPOLATIONS), size=2)
    small = cv2.resize(image, (side, side), interpolation=INTERPOLATIONS[down])
    return np.asarray(cv2.resize(small, (IMAGE_SIZE, IMAGE_SIZE), interpolation=INTERPOLATIONS[up]), np.uint8)


def crop_with_padding(view: View, rng: np.random.Generator) -> View:
    """Return `view` with a random rectangle left in place and everything around it black and not visible.

    The rectangle covers 20 to 100 % of the image at an aspect ratio in [3/4, 4/3]; where ten in a row do not fit, the
    whole image stays.
    Draws: for each trial area and log ratio; then row, column.
    """
    check_image(view.image, "crop_with_padding")
    height, width = _draw_crop_size(rng)
    top = int(rng.integers(IMAGE_SIZE - height + 1))
    left = int(rng.integers(IMAGE_SIZE - width + 1))
    kept = np.s_[top : top + height, left : left + width]
    cropped = View(np.zeros_like(view.image), np.zeros_like(view.visibility))
    cropped.image[kept] = view.image[kept]
    cropped.visibility[kept] = view.visibility[kept]
    return cropped


def photometric(image: Image, rng: np.random.Generator) -> Image:
    """Return `image` with brightness, contrast and saturation changed in random order, each by a factor in [0.5, 1.5].

    Contrast is about the mean luminance, saturation about each pixel's own; every step rounds and clips. The hue stays.
    Draws: order, then the factors of brightness, contrast and saturation.
    """
    check_image(image, "photometric")
    return recolor(image, rng)


def recolor(image: Image, rng: np.random.Generator) -> Image:
    """Return an image uint8 [H, W, 3] of any size as `photometric` changes it."""
    order = rng.permutation(3)
    factors = rng.uniform(1 - PHOTOMETRIC_STRENGTH, 1 + PHOTOMETRIC_STRENGTH, 3)
    for step in order:
        image = _ADJUSTMENTS[step](image, float(factors[step]))
    return image


def grayscale(image: Image) -> Image:
    """Return `image` without its colors, as a black-and-white camera takes it: three equal channels of luminance."""
    check_image(image, "grayscale")
    return np.asarray(cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB), np.uint8)


def _draw_crop_size(rng: np.random.Generator) -> tuple[int, int]:
    for _ in range(_CROP_TRIALS):
        area = IMAGE_SIZE**2 * rng.uniform(*CROP_SCALES)
        ratio = math.exp(rng.uniform(math.log(CROP_RATIOS[0]), math.log(CROP_RATIOS[1])))
        width, height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < width <= IMAGE_SIZE and 0 < height <= IMAGE_SIZE:
            return height, width
    return IMAGE_SIZE, IMAGE_SIZE


def _adjust_brightness(image: Image, factor: float) -> Image:
    return np.asarray(cv2.convertScaleAbs(image, alpha=factor), np.uint8)


def _adjust_contrast(image: Image, factor: float) -> Image:
    mean = round(cv2.mean(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY))[0])
    return np.asarray(cv2.addWeighted(image, factor, image, 0.0, (1 - factor) * mean), np.uint8)


def _adjust_saturation(image: Image, factor: float) -> Image:
    gray = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    return np.asarray(cv2.addWeighted(image, factor, gray, 1 - factor, 0.0), np.uint8)


_ADJUSTMENTS: Final = (_adjust_brightness, _adjust_contrast, _adjust_saturation)
