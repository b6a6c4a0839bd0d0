"""Filtering respirators: cup, flat fold, flat fold with a valve."""

from __future__ import annotations

from typing import Final

import numpy as np

from transforms.occluders.paint import paint
from transforms.occluders.palette import Colour, exposure
from transforms.occluders.wear import one_of, wear
from transforms.view import Image, View, check_image

_TEMPLATES: Final = ("respirator_cup", "respirator_fold", "respirator_valve")
_SHELLS: Final[Colour] = np.array(
    [[244, 244, 242], [250, 248, 240], [206, 210, 214], [48, 50, 54], [236, 206, 196]], float
)
_STRAPS: Final[Colour] = np.array([[236, 236, 236], [226, 196, 74], [70, 110, 190], [60, 60, 64]], float)
_METAL: Final[Colour] = np.array([176.0, 180.0, 186.0])


def respirator(image: Image, rng: np.random.Generator) -> View:
    """Cover nose, mouth and chin with a stiff respirator."""
    check_image(image, "respirator")
    layers = wear(_TEMPLATES, rng)
    colours = exposure(image) * np.stack([one_of(_SHELLS, rng, 6.0), one_of(_STRAPS, rng), _METAL])
    return paint(image, layers, colours, rng, texture="grain", depth=0.12)
