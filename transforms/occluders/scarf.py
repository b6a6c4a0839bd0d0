"""Scarves around neck and chin."""

from __future__ import annotations

from typing import Final

from transforms.painting.assets import Relief
from transforms.painting.occluder import DrawnOccluder
from transforms.painting.paint import paint
from transforms.painting.scene import Scene
from transforms.painting.wear import fabric_colors, printed, wear

_TEMPLATES: Final = ("scarf_low", "scarf_high")
_RELIEF: Final = Relief("folds", 0.45)


@DrawnOccluder
def scarf(scene: Scene) -> None:
    """Cover the lower face from chin or nose down with a wound scarf, half of the time with a print."""
    cutout = wear(_TEMPLATES, _RELIEF, scene.dice)
    cutout = printed(cutout, scene.dice, probability=0.5)
    paint(scene, cutout, fabric_colors(scene))
