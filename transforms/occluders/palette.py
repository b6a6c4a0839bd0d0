"""Colours of occluders: float64 [3], RGB, 255 = full; painting clips what a variation takes beyond."""

from __future__ import annotations

import colorsys
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from transforms.view import Image

Colour = NDArray[np.float64]

# From the lightest to the darkest human skin and from white to black hair, to be interpolated.
SKIN_TONES: Final[Colour] = np.array(
    [
        [250, 222, 203],
        [239, 203, 174],
        [226, 180, 143],
        [205, 150, 112],
        [172, 117, 80],
        [130, 83, 55],
        [92, 58, 40],
        [60, 38, 30],
    ],
    float,
)
HAIR_TONES: Final[Colour] = np.array(
    [
        [220, 215, 208],
        [170, 166, 160],
        [214, 178, 118],
        [176, 128, 74],
        [146, 78, 42],
        [104, 68, 42],
        [68, 46, 34],
        [36, 28, 26],
        [20, 18, 20],
    ],
    float,
)
_NEUTRALS: Final[Colour] = np.array(
    [[245, 245, 242], [198, 200, 202], [120, 122, 126], [52, 54, 60], [20, 20, 24], [24, 34, 66]], float
)
_SAMPLE_RADIUS = 3


def skin_colour(image: Image, rng: np.random.Generator) -> Colour:
    """Draw a skin colour: half of the time the one of the face itself, else any human one in the light of the image.

    The face's own is the mean of a small patch of cheek, nose or forehead, 10 % lighter or darker.
    Draws: own or other, then place (2) and gain, or tone and tint (3).
    """
    if rng.random() < 0.5:
        x, y = rng.uniform((40, 24), (72, 84))
        return _patch(image, x, y) * rng.uniform(0.9, 1.1)
    return exposure(image) * _between(SKIN_TONES, rng)


def hair_colour(image: Image, rng: np.random.Generator) -> Colour:
    """Draw a hair colour: a third of the time the one at the image's top, else any natural one in its light.

    Draws: own or other, then place and gain, or tone and tint (3).
    """
    if rng.random() < 1 / 3:
        return _patch(image, rng.uniform(40, 72), 7.0) * rng.uniform(0.85, 1.15)
    return exposure(image) * _between(HAIR_TONES, rng)


def fabric_colour(rng: np.random.Generator) -> Colour:
    """Draw a dye: a third of the time a neutral, else any hue from pale to deep.

    Draws: neutral or not, then index and tint (3), or hue, saturation and value (3).
    """
    if rng.random() < 1 / 3:
        return _NEUTRALS[rng.integers(len(_NEUTRALS))] + rng.uniform(-10, 10, 3)
    hue, saturation, value = rng.uniform((0.0, 0.15, 0.2), (1.0, 0.95, 0.98))
    return np.array(colorsys.hsv_to_rgb(hue, saturation, value)) * 255.0


def exposure(image: Image) -> float:
    """Return how much light a scene has, 1 for a middle grey image: a dark image dims what is put into it."""
    red, green, blue, _ = cv2.mean(image)
    luminance = 0.299 * red + 0.587 * green + 0.114 * blue
    return min(max(0.4 + 0.6 * luminance / 118.0, 0.45), 1.15)


def _between(tones: Colour, rng: np.random.Generator) -> Colour:
    position = rng.uniform(0, len(tones) - 1)
    index = int(position)
    tone = tones[index] + (position - index) * (tones[min(index + 1, len(tones) - 1)] - tones[index])
    return tone * rng.uniform(0.97, 1.03, 3)


def _patch(image: Image, x: float, y: float) -> Colour:
    column, row = int(x), int(y)
    patch = image[
        max(row - _SAMPLE_RADIUS, 0) : row + _SAMPLE_RADIUS + 1, column - _SAMPLE_RADIUS : column + _SAMPLE_RADIUS + 1
    ]
    return np.array(cv2.mean(patch)[:3])
