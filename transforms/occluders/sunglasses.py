"""Sunglasses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from transforms.painting.assets import Relief
from transforms.painting.occluder import DrawnOccluder
from transforms.painting.paint import paint
from transforms.painting.palette import Color, one_of, scaled
from transforms.painting.scene import Scene
from transforms.painting.wear import wear

_TEMPLATES: Final = ("aviator", "wayfarer", "round_lenses", "shield")
_RELIEF: Final = Relief("grain", 0.08)
_LENSES: Final[Sequence[Color]] = (
    (30, 32, 36),  # black twice: it is the commonest
    (30, 32, 36),
    (62, 44, 32),
    (38, 58, 48),
    (60, 76, 120),
    (190, 128, 60),
    (170, 176, 190),
)
_FRAMES: Final[Sequence[Color]] = (
    (22, 22, 24),
    (96, 62, 38),
    (206, 172, 96),
    (190, 194, 200),
    (236, 236, 232),
    (170, 40, 44),
)
_SKY: Final[Color] = (214, 226, 240)


@DrawnOccluder
def sunglasses(scene: Scene) -> None:
    """Cover the eyes with dark, tinted or mirrored lenses; the strength of their reflections varies."""
    dice = scene.dice
    cutout = wear(_TEMPLATES, _RELIEF, dice)
    colors = (one_of(_LENSES, dice), one_of(_FRAMES, dice), scaled(_SKY, dice.uniform(0.1, 1.0)))
    lit = [scaled(color, scene.exposure) for color in colors]
    paint(scene, cutout, lit)
