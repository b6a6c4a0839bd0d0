"""Colors of occluders: (red, green, blue), 255 = full; painting clips what a variation takes beyond."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from typing import Final

import cv2

from transforms.painting.dice import Dice
from transforms.painting.scene import Scene

Color = tuple[float, float, float]

# From the lightest to the darkest human skin and from white to black hair, to be interpolated.
SKIN_TONES: Final[Sequence[Color]] = (
    (250, 222, 203),
    (239, 203, 174),
    (226, 180, 143),
    (205, 150, 112),
    (172, 117, 80),
    (130, 83, 55),
    (92, 58, 40),
    (60, 38, 30),
)
HAIR_TONES: Final[Sequence[Color]] = (
    (220, 215, 208),
    (170, 166, 160),
    (214, 178, 118),
    (176, 128, 74),
    (146, 78, 42),
    (104, 68, 42),
    (68, 46, 34),
    (36, 28, 26),
    (20, 18, 20),
)
_NEUTRALS: Final[Sequence[Color]] = (
    (245, 245, 242),
    (198, 200, 202),
    (120, 122, 126),
    (52, 54, 60),
    (20, 20, 24),
    (24, 34, 66),
)
_SAMPLE_RADIUS = 3


def scaled(color: Color, gain: float) -> Color:
    """Return a color made lighter (gain > 1) or darker."""
    red, green, blue = color
    return red * gain, green * gain, blue * gain


def one_of(colors: Sequence[Color], dice: Dice, spread: float = 12.0) -> Color:
    """Return one of `colors`, each channel moved by up to `spread`. Draws: index, move (3)."""
    red, green, blue = colors[dice.index(len(colors))]
    more_red, more_green, more_blue = dice.around_zero(spread, 3)
    return red + more_red, green + more_green, blue + more_blue


def skin_color(scene: Scene) -> Color:
    """Draw a skin color: half of the time the one of the face itself, else any human one in the light of the image.

    The face's own is the mean of a small patch of cheek, nose or forehead, 10 % lighter or darker.
    Draws: own or other, then place (2) and gain, or tone and tint (3).
    """
    dice = scene.dice
    if dice.chance(0.5):
        x, y = dice.uniform(40, 72), dice.uniform(24, 84)
        return scaled(_patch(scene, x, y), dice.uniform(0.9, 1.1))
    return scaled(_between(SKIN_TONES, dice), scene.exposure)


def hair_color(scene: Scene) -> Color:
    """Draw a hair color: a third of the time the one at the image's top, else any natural one in its light.

    Draws: own or other, then place and gain, or tone and tint (3).
    """
    dice = scene.dice
    if dice.chance(1 / 3):
        return scaled(_patch(scene, dice.uniform(40, 72), 7.0), dice.uniform(0.85, 1.15))
    return scaled(_between(HAIR_TONES, dice), scene.exposure)


def fabric_color(dice: Dice) -> Color:
    """Draw a dye: a third of the time a neutral, else any hue from pale to deep.

    Draws: neutral or not, then index and tint (3), or hue, saturation and value.
    """
    if dice.chance(1 / 3):
        return one_of(_NEUTRALS, dice, 10.0)
    hue, saturation, value = dice.uniform(0.0, 1.0), dice.uniform(0.15, 0.95), dice.uniform(0.2, 0.98)
    return scaled(colorsys.hsv_to_rgb(hue, saturation, value), 255.0)


def _between(tones: Sequence[Color], dice: Dice) -> Color:
    position = dice.uniform(0, len(tones) - 1)
    index = int(position)
    share = position - index
    red, green, blue = (
        (a + share * (b - a)) * dice.uniform(0.97, 1.03) for a, b in zip(tones[index], tones[index + 1], strict=True)
    )
    return red, green, blue


def _patch(scene: Scene, x: float, y: float) -> Color:
    column, row = int(x), int(y)
    rows = slice(max(row - _SAMPLE_RADIUS, 0), row + _SAMPLE_RADIUS + 1)
    red, green, blue, _ = cv2.mean(scene.view.image[rows, column - _SAMPLE_RADIUS : column + _SAMPLE_RADIUS + 1])
    return red, green, blue
