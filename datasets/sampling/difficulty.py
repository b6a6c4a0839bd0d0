"""How hard an image is to recognize, as far as that can be told without a network: larger is harder.

`ease_of` makes a curriculum's ease of any of them; only their order counts.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from datasets.sample import Image

_SIDE = 112
# Sides that an image is tried at, half an octave apart.
_TRIED = (8, 11, 16, 23, 32, 45, 64, 90)
# Of an image's contrast, lost on the way down to a side and up again: above it the image holds more than that side.
# Faces of 112 pixels brought to 16, 32 or 64 and back, drawn ones and photographs, lose 0.02 to 0.09 there and 0.10 to
# 0.25 half an octave to an octave below.
_LOST = 0.08
_ROUNDING = 0.5  # gray levels, of an image without contrast


def resolution_difficulty(side: ArrayLike) -> NDArray[np.float64]:
    """Return log2(112 / side), at least 0, for the shorter side in pixels that a face had before it was resized.

    Where that is not known, `estimated_side` tells it from the pixels.

    Raises:
        ValueError: if a side is not above 0.
    """
    sides = np.asarray(side, np.float64)
    if not (sides > 0).all():
        raise ValueError(f"resolution_difficulty: sides must be above 0 pixels, got {sides.min()}")
    return np.maximum(0.0, np.log2(_SIDE / sides))


def estimated_side(image: Image) -> int:
    """Return the side in pixels that holds what an image uint8 [112, 112, 3] RGB shows: one of 8, 11, 16 ... 90, 112.

    The smallest one at which it can be stored and brought back with little loss. For images that were enlarged
    bilinearly or bicubically it is right to one step; less where there is little detail to hold. Noise and strong JPEG
    blocks, being detail, raise it.
    """
    gray = _gray(image)
    contrast = float(gray.std())
    for side in _TRIED:
        small = cv2.resize(gray, (side, side), interpolation=cv2.INTER_AREA)
        back = cv2.resize(small, gray.shape[::-1], interpolation=cv2.INTER_CUBIC)
        if float(np.sqrt(np.mean((back - gray) ** 2))) <= max(_LOST * contrast, _ROUNDING):
            return side
    return _SIDE


def contrast_difficulty(image: Image) -> float:
    """Return 0.5 less the standard deviation of the brightness in [0, 1] of an image uint8 [H, W, 3]; in [0, 0.5]."""
    return 0.5 - float(_gray(image).std()) / 255


def hidden_share(visibility: NDArray[np.uint8] | NDArray[np.bool_] | NDArray[np.floating]) -> float:
    """Return 1 less the mean of a mask or map in [0, 1], 1 = visible; in [0, 1]."""
    return 1 - float(visibility.mean(dtype=np.float64))


def _gray(image: Image) -> NDArray[np.float32]:
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), np.float32)
