"""Hair over the forehead."""

from __future__ import annotations

from typing import Final

import numpy as np

from transforms.occluders.assets import Relief
from transforms.occluders.paint import paint
from transforms.occluders.palette import hair_colour, scaled
from transforms.occluders.scene import look_at
from transforms.occluders.wear import wear
from transforms.view import Image, View

_TEMPLATES: Final = ("straight_fringe", "side_fringe", "curtain_fringe")
_RELIEF: Final = Relief("strands", 0.45)


def hair_fringe(image: Image, rng: np.random.Generator) -> View:
    """Cover the forehead, and the temples or an eye, with hair of any natural colour."""
    scene = look_at(image, rng, "hair_fringe")
    cutout = wear(_TEMPLATES, _RELIEF, scene.dice)
    hair = hair_colour(scene)
    red, green, blue = scaled(hair, scene.dice.uniform(1.0, 1.5))
    lighter = (red + 6, green + 6, blue + 6)
    return paint(scene, cutout, (hair, lighter, lighter))
