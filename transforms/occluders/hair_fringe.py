"""Hair over the forehead."""

from __future__ import annotations

from typing import Final

from transforms.painting.assets import Relief
from transforms.painting.occluder import DrawnOccluder
from transforms.painting.paint import paint
from transforms.painting.palette import hair_color, scaled
from transforms.painting.scene import Scene
from transforms.painting.wear import wear

_TEMPLATES: Final = ("straight_fringe", "side_fringe", "curtain_fringe")
_RELIEF: Final = Relief("strands", 0.45)


@DrawnOccluder
def hair_fringe(scene: Scene) -> None:
    """Cover the forehead, and the temples or an eye, with hair of any natural color."""
    cutout = wear(_TEMPLATES, _RELIEF, scene.dice)
    hair = hair_color(scene)
    red, green, blue = scaled(hair, scene.dice.uniform(1.0, 1.5))
    lighter = (red + 6, green + 6, blue + 6)
    paint(scene, cutout, (hair, lighter, lighter))
