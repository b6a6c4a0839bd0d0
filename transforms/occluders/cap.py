"""Caps and knitted hats."""

from __future__ import annotations

from typing import Final

from transforms.painting.assets import Relief
from transforms.painting.occluder import DrawnOccluder
from transforms.painting.paint import paint
from transforms.painting.palette import scaled
from transforms.painting.scene import Scene
from transforms.painting.wear import fabric_colors, printed, wear

_TEMPLATES: Final = ("cap_brim", "cap_tilted", "beanie")
_RELIEF: Final = Relief("grain", 0.18)


@DrawnOccluder
def cap(scene: Scene) -> None:
    """Cover hair and forehead with a cap or a knitted hat; brim or cuff in the color of the crown half of the time."""
    cutout = wear(_TEMPLATES, _RELIEF, scene.dice)
    cutout = printed(cutout, scene.dice, probability=0.2)
    crown, brim, emblem = fabric_colors(scene)
    if scene.dice.chance(0.5):
        brim = scaled(crown, 0.92)
    paint(scene, cutout, (crown, brim, emblem))
