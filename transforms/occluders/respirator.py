"""Filtering respirators: cup, flat fold, flat fold with a valve."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from transforms.painting.assets import Relief
from transforms.painting.occluder import DrawnOccluder
from transforms.painting.paint import paint
from transforms.painting.palette import Color, one_of, scaled
from transforms.painting.scene import Scene
from transforms.painting.wear import wear

_TEMPLATES: Final = ("respirator_cup", "respirator_fold", "respirator_valve")
_RELIEF: Final = Relief("grain", 0.12)
_SHELLS: Final[Sequence[Color]] = (
    (244, 244, 242),
    (250, 248, 240),
    (206, 210, 214),
    (48, 50, 54),
    (236, 206, 196),
)
_STRAPS: Final[Sequence[Color]] = ((236, 236, 236), (226, 196, 74), (70, 110, 190), (60, 60, 64))
_METAL: Final[Color] = (176, 180, 186)


@DrawnOccluder
def respirator(scene: Scene) -> None:
    """Cover nose, mouth and chin with a stiff respirator."""
    cutout = wear(_TEMPLATES, _RELIEF, scene.dice)
    colors = (one_of(_SHELLS, scene.dice, 6.0), one_of(_STRAPS, scene.dice), _METAL)
    lit = [scaled(color, scene.exposure) for color in colors]
    paint(scene, cutout, lit)
