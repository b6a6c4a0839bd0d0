"""What an occluder sees before it draws: the image, its light, and the dice of this view."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np

from transforms.occluders.dice import Dice
from transforms.view import Image, check_image


class Scene(NamedTuple):
    """An image to be occluded.

    Attributes:
        image: uint8 [112, 112, 3], RGB; not to be changed.
        dice: every random number of this view.
        exposure: how much light the scene has, 1 for a middle grey image; a dark one dims what is put into it.
        is_grey: whether the image has no colour.
    """

    image: Image
    dice: Dice
    exposure: float
    is_grey: bool


def look_at(image: Image, rng: np.random.Generator, occluder: str) -> Scene:
    """Return the scene of an image.

    Args:
        image: uint8 [112, 112, 3], RGB.
        rng: asked for blocks of numbers.
        occluder: who looks, for the error.
    Raises:
        TypeError: if the image is not uint8. ValueError: if it has another shape.
    """
    check_image(image, occluder)
    # Every eighth row says the same as all of them.
    red, green, blue, _ = cv2.mean(image[4::8])
    luminance = 0.299 * red + 0.587 * green + 0.114 * blue
    exposure = min(max(0.4 + 0.6 * luminance / 118.0, 0.45), 1.15)
    return Scene(image, Dice(rng), exposure, is_grey=red == green == blue)
