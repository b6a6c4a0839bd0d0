"""Sunglasses."""

from __future__ import annotations

from typing import Final

import numpy as np

from transforms.occluders.paint import paint
from transforms.occluders.palette import Colour, exposure
from transforms.occluders.wear import one_of, wear
from transforms.view import Image, View, check_image

_TEMPLATES: Final = ("aviator", "wayfarer", "round_lenses", "shield")
_LENSES: Final[Colour] = np.array(
    [[30, 32, 36], [30, 32, 36], [62, 44, 32], [38, 58, 48], [60, 76, 120], [190, 128, 60], [170, 176, 190]], float
)
_FRAMES: Final[Colour] = np.array(
    [[22, 22, 24], [96, 62, 38], [206, 172, 96], [190, 194, 200], [236, 236, 232], [170, 40, 44]], float
)
_SKY: Final[Colour] = np.array([214.0, 226.0, 240.0])


def sunglasses(image: Image, rng: np.random.Generator) -> View:
    """Cover the eyes with dark, tinted or mirrored lenses; the strength of their reflections varies."""
    check_image(image, "sunglasses")
    layers = wear(_TEMPLATES, rng)
    colours = exposure(image) * np.stack([one_of(_LENSES, rng), one_of(_FRAMES, rng), rng.uniform(0.1, 1.0) * _SKY])
    return paint(image, layers, colours, rng, texture="grain", depth=0.08)
