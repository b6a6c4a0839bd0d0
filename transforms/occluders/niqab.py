"""Face veils."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from transforms.occluders.assets import Relief
from transforms.occluders.paint import paint
from transforms.occluders.palette import Colour, fabric_colour, one_of, scaled
from transforms.occluders.scene import look_at
from transforms.occluders.wear import wear
from transforms.view import Image, View

_TEMPLATES: Final = ("niqab", "niqab_wide", "half_niqab")
_RELIEF: Final = Relief("folds", 0.18)
_CLOTHS: Final[Sequence[Colour]] = (
    (22, 22, 26),  # black twice: it is the commonest
    (22, 22, 26),
    (30, 34, 58),
    (70, 52, 44),
    (96, 92, 92),
    (206, 196, 182),
)


def niqab(image: Image, rng: np.random.Generator) -> View:
    """Cover everything but the eyes, or the eyes and the forehead, with a veil, mostly dark."""
    scene = look_at(image, rng, "niqab")
    dice = scene.dice
    cutout = wear(_TEMPLATES, _RELIEF, dice)
    dye = one_of(_CLOTHS, dice, 8.0) if dice.chance(0.7) else fabric_colour(dice)
    cloth = scaled(dye, scene.exposure)
    hem = scaled(cloth, dice.uniform(0.6, 1.3))
    return paint(scene, cutout, (cloth, hem, hem))
