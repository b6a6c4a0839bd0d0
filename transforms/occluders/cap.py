"""Caps and knitted hats."""

from __future__ import annotations

from typing import Final

import numpy as np

from transforms.occluders.paint import paint
from transforms.occluders.wear import add_pattern, fabric_colours, wear
from transforms.view import Image, View, check_image

_TEMPLATES: Final = ("cap_brim", "cap_tilted", "beanie")


def cap(image: Image, rng: np.random.Generator) -> View:
    """Cover hair and forehead with a cap or a knitted hat; brim or cuff in the colour of the crown half of the time."""
    check_image(image, "cap")
    layers = wear(_TEMPLATES, rng)
    add_pattern(layers, rng, probability=0.2)
    colours = fabric_colours(image, rng)
    if rng.random() < 0.5:
        colours[1] = 0.92 * colours[0]
    return paint(image, layers, colours, rng, texture="grain", depth=0.18)
