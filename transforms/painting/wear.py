"""What the worn occluders share: a template chosen and put on the face, and a fabric's colors and pattern."""

from __future__ import annotations

from functools import cache
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from transforms.painting.assets import Relief, load_texture, read_only
from transforms.painting.cutout import VARIANTS, Cutout, worn_cutout
from transforms.painting.dice import Dice, fixed_dice
from transforms.painting.palette import Color, fabric_color, scaled
from transforms.painting.placement import MAX_SHIFT, Box, turn
from transforms.painting.scene import Scene

_PATTERNS: Final = ("stripes", "checks", "plaid", "dots", "camouflage", "flowers")
_PATTERN_SCALES: Final = (0.45, 1.1)
_PRINT_VARIANTS: Final = 16
_PRINT_SIZE: Final = 256


def wear(names: tuple[str, ...], relief: Relief, dice: Dice) -> Cutout:
    """Return one of the templates `names` on the face, moved by up to 5 pixels. Draws: name, variant, move (2)."""
    cutout = worn_cutout(names[dice.index(len(names))], dice.index(VARIANTS), relief, MAX_SHIFT)
    return cutout.moved(dice.whole(MAX_SHIFT), dice.whole(MAX_SHIFT))


def printed(cutout: Cutout, dice: Dice, probability: float) -> Cutout:
    """Return a cutout with a pattern in the second material's color on the first, with `probability`.

    Draws: whether; pattern, variant, place (2).
    """
    if not dice.chance(probability):
        return cutout
    first, second, third = cv2.split(cutout.materials)
    ink = cv2.multiply(first, _draw_print(dice, cutout.box), scale=1 / 255)
    materials = cv2.merge([cv2.subtract(first, ink), cv2.add(second, ink), third])
    return cutout._replace(materials=np.asarray(materials, np.uint8))


@cache
def print_sheet(name: str, variant: int) -> NDArray[np.uint8]:
    """Return one of the turned and scaled sheets of a pattern: uint8 [256, 256], 0 the ground, 255 the ink."""
    dice = fixed_dice(name, variant)
    matrix = turn(dice.uniform(*_PATTERN_SCALES), dice.uniform(-180.0, 180.0), (0, 0), (0, 0))[:2]
    size = (_PRINT_SIZE, _PRINT_SIZE)
    return read_only(np.asarray(cv2.warpAffine(load_texture(name), matrix, size, borderMode=cv2.BORDER_WRAP), np.uint8))


def _draw_print(dice: Dice, box: Box) -> NDArray[np.uint8]:
    """Return a part of a pattern as large as the box. Draws: name, variant, place (2)."""
    sheet = print_sheet(_PATTERNS[dice.index(len(_PATTERNS))], dice.index(_PRINT_VARIANTS))
    width, height = box.size
    row, column = dice.index(len(sheet) - height + 1), dice.index(len(sheet) - width + 1)
    return sheet[row : row + height, column : column + width]


def fabric_colors(scene: Scene) -> list[Color]:
    """Draw the colors of a fabric, of its trim and print, and of an emblem on it, in the light of the image.

    Draws: three fabric colors.
    """
    return [scaled(fabric_color(scene.dice), scene.exposure) for _ in range(3)]
