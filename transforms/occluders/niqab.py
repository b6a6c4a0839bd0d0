"""Face veils."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from transforms.painting.assets import Relief
from transforms.painting.occluder import DrawnOccluder
from transforms.painting.paint import paint
from transforms.painting.palette import Color, fabric_color, one_of, scaled
from transforms.painting.scene import Scene
from transforms.painting.wear import wear

_TEMPLATES: Final = ("niqab", "niqab_wide", "half_niqab")
_RELIEF: Final = Relief("folds", 0.18)
_CLOTHS: Final[Sequence[Color]] = (
    (22, 22, 26),  # black twice: it is the commonest
    (22, 22, 26),
    (30, 34, 58),
    (70, 52, 44),
    (96, 92, 92),
    (206, 196, 182),
)


@DrawnOccluder
def niqab(scene: Scene) -> None:
    """Cover everything but the eyes, or the eyes and the forehead, with a veil, mostly dark."""
    dice = scene.dice
    cutout = wear(_TEMPLATES, _RELIEF, dice)
    dye = one_of(_CLOTHS, dice, 8.0) if dice.chance(0.7) else fabric_color(dice)
    cloth = scaled(dye, scene.exposure)
    hem = scaled(cloth, dice.uniform(0.6, 1.3))
    paint(scene, cutout, (cloth, hem, hem))
