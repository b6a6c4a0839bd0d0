"""Masks made of cloth."""

from __future__ import annotations

from typing import Final

from transforms.painting.assets import Relief
from transforms.painting.occluder import DrawnOccluder
from transforms.painting.paint import paint
from transforms.painting.scene import Scene
from transforms.painting.wear import fabric_colors, printed, wear

_TEMPLATES: Final = ("cloth", "bandana", "gaiter")
_RELIEF: Final = Relief("folds", 0.35)


@DrawnOccluder
def cloth_mask(scene: Scene) -> None:
    """Cover nose, mouth and chin with a cloth mask, bandana or gaiter of any color, two in three printed."""
    cutout = wear(_TEMPLATES, _RELIEF, scene.dice)
    cutout = printed(cutout, scene.dice, probability=2 / 3)
    paint(scene, cutout, fabric_colors(scene))
