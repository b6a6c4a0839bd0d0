"""Hair over the forehead."""

from __future__ import annotations

from typing import Final

import numpy as np

from transforms.occluders.paint import paint
from transforms.occluders.palette import hair_colour
from transforms.occluders.wear import wear
from transforms.view import Image, View, check_image

_TEMPLATES: Final = ("straight_fringe", "side_fringe", "curtain_fringe")


def hair_fringe(image: Image, rng: np.random.Generator) -> View:
    """Cover the forehead, and the temples or an eye, with hair of any natural colour."""
    check_image(image, "hair_fringe")
    layers = wear(_TEMPLATES, rng)
    hair = hair_colour(image, rng)
    lighter = hair * rng.uniform(1.0, 1.5) + 6
    return paint(image, layers, np.stack([hair, lighter, lighter]), rng, texture="strands", depth=0.45)
