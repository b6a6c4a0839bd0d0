"""Scarves around neck and chin."""

from __future__ import annotations

from typing import Final

import numpy as np

from transforms.occluders.assets import Relief
from transforms.occluders.paint import paint
from transforms.occluders.scene import look_at
from transforms.occluders.wear import fabric_colours, printed, wear
from transforms.view import Image, View

_TEMPLATES: Final = ("scarf_low", "scarf_high")
_RELIEF: Final = Relief("folds", 0.45)


def scarf(image: Image, rng: np.random.Generator) -> View:
    """Cover the lower face from chin or nose down with a wound scarf, half of the time with a print."""
    scene = look_at(image, rng, "scarf")
    cutout = wear(_TEMPLATES, _RELIEF, scene.dice)
    cutout = printed(cutout, scene.dice, probability=0.5)
    return paint(scene, cutout, fabric_colours(scene))
