"""The disposable surgical mask."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from transforms.painting.assets import Relief
from transforms.painting.occluder import DrawnOccluder
from transforms.painting.paint import paint
from transforms.painting.palette import Color, one_of, scaled
from transforms.painting.scene import Scene
from transforms.painting.wear import wear

_TEMPLATES: Final = ("surgical", "surgical_loose")
_RELIEF: Final = Relief("folds", 0.22)
_CLOTHS: Final[Sequence[Color]] = (
    (146, 200, 226),  # blue twice: it is the commonest
    (128, 186, 218),
    (150, 208, 186),
    (242, 243, 244),
    (238, 190, 202),
    (40, 42, 46),
    (184, 178, 208),
)
_TRIMS: Final[Sequence[Color]] = ((240, 242, 244), (222, 228, 232))
_METAL: Final[Color] = (150, 152, 156)


@DrawnOccluder
def surgical_mask(scene: Scene) -> None:
    """Cover nose, mouth and chin with a pleated mask in one of the usual colors."""
    cutout = wear(_TEMPLATES, _RELIEF, scene.dice)
    colors = (one_of(_CLOTHS, scene.dice), one_of(_TRIMS, scene.dice), _METAL)
    paint(scene, cutout, [scaled(color, scene.exposure) for color in colors])
