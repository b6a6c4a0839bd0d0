"""What the worn occluders share: a template chosen and put on the face, and a fabric's colours and pattern."""

from __future__ import annotations

from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from transforms.landmarks import IMAGE_SIZE
from transforms.occluders.assets import TILE, load_template, load_texture
from transforms.occluders.paint import Layers
from transforms.occluders.palette import Colour, exposure, fabric_colour
from transforms.occluders.placement import face_placement, turn, warp
from transforms.view import Image

_PATTERNS: Final = ("stripes", "checks", "plaid", "dots", "camouflage", "flowers")
# From the smallest scale at which a turned crop, wherever it lies in the middle tile, stays on the 512 x 512 sheet.
_PATTERN_SCALES: Final = (0.45, 1.1)


def wear(names: tuple[str, ...], rng: np.random.Generator) -> Layers:
    """Return one of the templates `names` on the face: uint8 [112, 112, 4]. Draws: index, then face_placement."""
    name = names[rng.integers(len(names))]
    return warp(load_template(name), face_placement(rng))


def add_pattern(layers: Layers, rng: np.random.Generator, probability: float) -> None:
    """Print a pattern in the second material's colour on the first, in place, with `probability`.

    Draws: whether, draw_pattern.
    """
    if rng.random() >= probability:
        return
    first, second, third, alpha = cv2.split(layers)
    printed = cv2.multiply(first, draw_pattern(rng), scale=1 / 255)
    cv2.merge([cv2.subtract(first, printed), cv2.add(second, printed), third, alpha], layers)


def draw_pattern(rng: np.random.Generator) -> NDArray[np.uint8]:
    """Draw a pattern of two colours: uint8 [112, 112], 0 the first, 255 the second.

    Draws: index, angle, scale, place (2).
    """
    sheet = load_texture(_PATTERNS[rng.integers(len(_PATTERNS))])
    angle, scale = rng.uniform(-180.0, 180.0), rng.uniform(*_PATTERN_SCALES)
    centre = (len(sheet) / 2 + rng.uniform(-TILE / 2, TILE / 2, 2)).tolist()
    middle = np.array([IMAGE_SIZE / 2, IMAGE_SIZE / 2])
    matrix = turn(scale, angle, (centre[0], centre[1]), middle)[:2]
    return np.asarray(cv2.warpAffine(sheet, matrix, (IMAGE_SIZE, IMAGE_SIZE)), np.uint8)


def fabric_colours(image: Image, rng: np.random.Generator) -> NDArray[np.float64]:
    """Draw the colours [3, 3] of a fabric, of its trim and print, and of an emblem on it, in the light of the image.

    Draws: three fabric colours.
    """
    return exposure(image) * np.stack([fabric_colour(rng), fabric_colour(rng), fabric_colour(rng)])


def one_of(colours: Colour, rng: np.random.Generator, spread: float = 12.0) -> Colour:
    """Return one row of `colours` [N, 3], each channel moved by up to `spread`. Draws: index, move (3)."""
    return colours[rng.integers(len(colours))] + rng.uniform(-spread, spread, 3)
