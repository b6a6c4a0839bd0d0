"""Masks made of cloth."""

from __future__ import annotations

from typing import Final

import numpy as np

from transforms.occluders.assets import Relief
from transforms.occluders.paint import paint
from transforms.occluders.scene import look_at
from transforms.occluders.wear import fabric_colours, printed, wear
from transforms.view import Image, View

_TEMPLATES: Final = ("cloth", "bandana", "gaiter")
_RELIEF: Final = Relief("folds", 0.35)


def cloth_mask(image: Image, rng: np.random.Generator) -> View:
    """Cover nose, mouth and chin with a cloth mask, bandana or gaiter of any colour, two in three printed."""
    scene = look_at(image, rng, "cloth_mask")
    cutout = wear(_TEMPLATES, _RELIEF, scene.dice)
    cutout = printed(cutout, scene.dice, probability=2 / 3)
    return paint(scene, cutout, fabric_colours(scene))
