"""Masks made of cloth."""

from __future__ import annotations

from typing import Final

import numpy as np

from transforms.occluders.paint import paint
from transforms.occluders.wear import add_pattern, fabric_colours, wear
from transforms.view import Image, View, check_image

_TEMPLATES: Final = ("cloth", "bandana", "gaiter")


def cloth_mask(image: Image, rng: np.random.Generator) -> View:
    """Cover nose, mouth and chin with a cloth mask, bandana or gaiter of any colour, two in three printed."""
    check_image(image, "cloth_mask")
    layers = wear(_TEMPLATES, rng)
    add_pattern(layers, rng, probability=2 / 3)
    return paint(image, layers, fabric_colours(image, rng), rng, depth=0.35)
