"""What an occluder sees before it draws: the image, its light, and the dice of this view."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np

from transforms.painting.dice import Dice
from transforms.view import View


class Scene(NamedTuple):
    """A view to be occluded in place.

    Attributes:
        view: its image is read before it is changed; all of it is visible so far.
        dice: every random number of this view.
        exposure: how much light the scene has, 1 for a middle gray image; a dark one dims what is put into it.
        is_gray: whether the image has no color.
    """

    view: View
    dice: Dice
    exposure: float
    is_gray: bool


def look_at(view: View, rng: np.random.Generator) -> Scene:
    """Return the scene of a view; the generator will be asked for blocks of numbers."""
    # Every eighth row says the same as all of them.
    red, green, blue, _ = cv2.mean(view.image[4::8])
    luminance = 0.299 * red + 0.587 * green + 0.114 * blue
    exposure = min(max(0.4 + 0.6 * luminance / 118.0, 0.45), 1.15)
    return Scene(view, Dice(rng), exposure, is_gray=red == green == blue)
