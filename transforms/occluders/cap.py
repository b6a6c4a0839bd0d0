"""Caps and knitted hats."""

from __future__ import annotations

from typing import Final

import numpy as np

from transforms.occluders.assets import Relief
from transforms.occluders.paint import paint
from transforms.occluders.palette import scaled
from transforms.occluders.scene import look_at
from transforms.occluders.wear import fabric_colours, printed, wear
from transforms.view import Image, View

_TEMPLATES: Final = ("cap_brim", "cap_tilted", "beanie")
_RELIEF: Final = Relief("grain", 0.18)


def cap(image: Image, rng: np.random.Generator) -> View:
    """Cover hair and forehead with a cap or a knitted hat; brim or cuff in the colour of the crown half of the time."""
    scene = look_at(image, rng, "cap")
    cutout = wear(_TEMPLATES, _RELIEF, scene.dice)
    cutout = printed(cutout, scene.dice, probability=0.2)
    crown, brim, emblem = fabric_colours(scene)
    if scene.dice.chance(0.5):
        brim = scaled(crown, 0.92)
    return paint(scene, cutout, (crown, brim, emblem))
