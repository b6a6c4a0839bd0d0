"""A view for contrastive training: crop, mirror, color, blur, and what else a face may meet on its way to a camera."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import cv2
import numpy as np

from transforms.augment import grayscale, low_resolution, mirror, photometric
from transforms.landmarks import IMAGE_SIZE
from transforms.occluders import check_occluders, occlude_in_place
from transforms.view import Image, View, check_image

BLUR_SIGMAS: Final = (0.1, 2.0)
CROP_RATIOS: Final = (0.75, 4 / 3)
_TRIALS: Final = 10


class TwoViews:
    """Returns one of the two views; the other one is the same with other numbers.

    The steps, in this order: occlusion, crop resized to the whole image, mirror, light and color, grayscale, blur, low
    resolution. (Chen et al., "Improved Baselines with Momentum Contrastive Learning", arXiv:2003.04297; occlusion and
    low resolution are ours.) Seven uniform numbers decide which steps run, then each that runs draws from one
    generator: whether a step runs does not depend on what another one drew.

    Args:
        crop_area: least share of the image that the crop keeps, in (0, 1]; 1: there is none.
        flip_prob, color_prob, grayscale_prob, blur_prob, low_res_prob, occlusion_prob: of each step.
        occluders: keys of OCCLUDERS, each equally likely; needed when occlusion_prob > 0.
    Raises:
        ValueError: if a number is out of its range or an occluder is unknown.
    """

    def __init__(  # noqa: PLR0913  (one for each step)
        self,
        crop_area: float = 0.2,
        flip_prob: float = 0.5,
        color_prob: float = 0.8,
        grayscale_prob: float = 0.2,
        blur_prob: float = 0.5,
        low_res_prob: float = 0.0,
        occlusion_prob: float = 0.0,
        occluders: Sequence[str] = (),
    ) -> None:
        if not 0 < crop_area <= 1:
            raise ValueError(f"TwoViews: crop_area must be in (0, 1], got {crop_area}")
        crop_prob = float(crop_area < 1)
        probabilities = (occlusion_prob, crop_prob, flip_prob, color_prob, grayscale_prob, blur_prob, low_res_prob)
        if bad := [value for value in probabilities if not 0 <= value <= 1]:
            raise ValueError(f"TwoViews: a probability must be in [0, 1], got {bad[0]}")
        check_occluders(occluders, "TwoViews")
        if occlusion_prob and not occluders:
            raise ValueError(f"TwoViews: occlusion_prob is {occlusion_prob} but occluders is empty; name at least one")
        self._crop_area = crop_area
        self._occluders = tuple(occluders)
        self._probabilities = np.array(probabilities)

    def __call__(self, image: Image, rng: np.random.Generator) -> View:
        """Return a view of `image` uint8 [112, 112, 3] RGB, which stays unchanged; all of the view counts as visible.

        Raises:
            TypeError: if the image is not uint8. ValueError: if it has another shape.
        """
        check_image(image, "TwoViews")
        view = View(image.copy(), np.ones(image.shape[:2], np.uint8))
        occludes, crops, flips, recolors, grays, blurs, degrades = rng.random(7) < self._probabilities
        if occludes:
            occlude_in_place(view, rng, self._occluders)
        pixels = view.image
        if crops:
            pixels = resized_crop(pixels, self._crop_area, rng)
        if flips:
            pixels = mirror(pixels)
        if recolors:
            pixels = photometric(pixels, rng)
        if grays:
            pixels = grayscale(pixels)
        if blurs:
            pixels = blur(pixels, rng)
        if degrades:
            pixels = low_resolution(pixels, rng)
        return View(pixels, np.ones(image.shape[:2], np.uint8))


def resized_crop(image: Image, least_area: float, rng: np.random.Generator) -> Image:
    """Return a random rectangle of `image`, resized to the whole: at least `least_area` of it, 3:4 to 4:3 wide.

    Where ten rectangles in a row do not fit, the whole image stays.
    Draws: for each trial area and log ratio; then row, column.
    """
    for _ in range(_TRIALS):
        area = IMAGE_SIZE**2 * rng.uniform(least_area, 1.0)
        ratio = math.exp(rng.uniform(math.log(CROP_RATIOS[0]), math.log(CROP_RATIOS[1])))
        width, height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < width <= IMAGE_SIZE and 0 < height <= IMAGE_SIZE:
            top, left = (int(rng.integers(IMAGE_SIZE - side + 1)) for side in (height, width))
            crop = image[top : top + height, left : left + width]
            return np.asarray(cv2.resize(crop, (IMAGE_SIZE, IMAGE_SIZE), interpolation=cv2.INTER_LINEAR), np.uint8)
    return image


def blur(image: Image, rng: np.random.Generator) -> Image:
    """Return `image` under a Gaussian blur of a sigma in [0.1, 2] pixels of 112. Draws: sigma."""
    sigma = rng.uniform(*BLUR_SIGMAS)
    return np.asarray(cv2.GaussianBlur(image, (0, 0), sigma), np.uint8)
