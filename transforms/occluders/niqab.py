"""Face veils."""

from __future__ import annotations

from typing import Final

import numpy as np

from transforms.occluders.paint import paint
from transforms.occluders.palette import Colour, exposure, fabric_colour
from transforms.occluders.wear import one_of, wear
from transforms.view import Image, View, check_image

_TEMPLATES: Final = ("niqab", "niqab_wide", "half_niqab")
_CLOTHS: Final[Colour] = np.array(
    [[22, 22, 26], [22, 22, 26], [30, 34, 58], [70, 52, 44], [96, 92, 92], [206, 196, 182]], float
)


def niqab(image: Image, rng: np.random.Generator) -> View:
    """Cover everything but the eyes, or the eyes and the forehead, with a veil, mostly dark."""
    check_image(image, "niqab")
    layers = wear(_TEMPLATES, rng)
    cloth = one_of(_CLOTHS, rng, 8.0) if rng.random() < 0.7 else fabric_colour(rng)
    hem = cloth * rng.uniform(0.6, 1.3)
    return paint(image, layers, exposure(image) * np.stack([cloth, hem, hem]), rng, depth=0.18)
