"""Scarves around neck and chin."""

from __future__ import annotations

from typing import Final

import numpy as np

from transforms.occluders.paint import paint
from transforms.occluders.wear import add_pattern, fabric_colours, wear
from transforms.view import Image, View, check_image

_TEMPLATES: Final = ("scarf_low", "scarf_high")


def scarf(image: Image, rng: np.random.Generator) -> View:
    """Cover the lower face from chin or nose down with a wound scarf, half of the time with a print."""
    check_image(image, "scarf")
    layers = wear(_TEMPLATES, rng)
    add_pattern(layers, rng, probability=0.5)
    return paint(image, layers, fabric_colours(image, rng), rng, depth=0.45)
