"""The disposable surgical mask."""

from __future__ import annotations

from typing import Final

import numpy as np

from transforms.occluders.paint import paint
from transforms.occluders.palette import Colour, exposure
from transforms.occluders.wear import one_of, wear
from transforms.view import Image, View, check_image

_TEMPLATES: Final = ("surgical", "surgical_loose")
# Blue twice: it is the commonest.
_CLOTHS: Final[Colour] = np.array(
    [
        [146, 200, 226],
        [128, 186, 218],
        [150, 208, 186],
        [242, 243, 244],
        [238, 190, 202],
        [40, 42, 46],
        [184, 178, 208],
    ],
    float,
)
_TRIMS: Final[Colour] = np.array([[240, 242, 244], [222, 228, 232]], float)
_METAL: Final[Colour] = np.array([150.0, 152.0, 156.0])


def surgical_mask(image: Image, rng: np.random.Generator) -> View:
    """Cover nose, mouth and chin with a pleated mask in one of the usual colours."""
    check_image(image, "surgical_mask")
    layers = wear(_TEMPLATES, rng)
    colours = exposure(image) * np.stack([one_of(_CLOTHS, rng), one_of(_TRIMS, rng), _METAL])
    return paint(image, layers, colours, rng, depth=0.22)
