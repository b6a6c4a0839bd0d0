"""A hand in front of the face."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from transforms.occluders.assets import load_template
from transforms.occluders.paint import paint
from transforms.occluders.palette import skin_colour
from transforms.occluders.placement import LANDMARK_JITTER, MAX_SHIFT, free_placement, warp
from transforms.view import Image, View, check_image

# A template and the point of it that goes to the chosen part of the face.
_TEMPLATES: Final = (
    ("hand_spread", (56.0, 66.0)),
    ("hand_together", (56.0, 62.0)),
    ("hand_pointing", (50.0, 56.0)),
    ("hand_fist", (56.0, 78.0)),
)
# Mouth, nose, both cheeks, both eyes, chin, and forehead.
_TARGETS: Final[NDArray[np.float64]] = np.array(
    [[56, 92], [56, 74], [28, 76], [84, 76], [38, 54], [74, 54], [56, 100], [56, 34]], float
)
_MAX_SWING: Final = 60.0  # degrees from upright: an arm comes from below or from a side


def hand(image: Image, rng: np.random.Generator) -> View:
    """Cover a part of the face with a hand of any skin colour, the face's own included.

    A hand is not worn: it does not follow the five points as a whole but lies on one part of the face, the arm coming
    from below or from a side.
    Draws: template, target, jitter (2), swing, free_placement, skin colour, nail tint (3), paint.
    """
    check_image(image, "hand")
    name, anchor = _TEMPLATES[rng.integers(len(_TEMPLATES))]
    reach = LANDMARK_JITTER + MAX_SHIFT
    target = _TARGETS[rng.integers(len(_TARGETS))] + rng.uniform(-reach, reach, 2)
    swing = rng.uniform(-_MAX_SWING, _MAX_SWING)
    layers = warp(load_template(name), free_placement(rng, anchor, target, swing))
    skin = skin_colour(image, rng)
    nails = skin * rng.uniform((1.0, 0.9, 0.9), (1.2, 1.1, 1.1)) + (10, 4, 4)
    return paint(image, layers, np.stack([1.08 * skin, nails, nails]), rng, texture="grain", depth=0.15)
