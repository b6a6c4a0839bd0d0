"""Sunglasses."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from transforms.painting.assets import Relief, read_only
from transforms.painting.cutout import Cutout
from transforms.painting.dice import Dice, fixed_dice
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


_REFLECTING, _GRADIENT = 0.35, 0.25  # shares of the glasses
_SCENES: Final = 32
_SCENE_SIZE: Final = 128
_CLEAREST: Final = (0.1, 0.6)  # what a gradient leaves of a lens at its lower edge
_FADES: Final = (0.35, 0.75)  # where a gradient begins and ends, in heights of the glasses


@DrawnOccluder
def sunglasses(scene: Scene) -> None:
    """Cover the eyes with dark, tinted or mirrored lenses; the strength of their reflections varies.

    In one of three pairs of lenses the surroundings are seen, and one in four clears downwards: where less than half
    of a lens is left, what is behind it is visible.
    Draws: template, variant, move (2); colors of lens, frame and sky; reflection (4); gradient (2); paint.
    """
    dice = scene.dice
    cutout = wear(_TEMPLATES, _RELIEF, dice)
    colors = (one_of(_LENSES, dice), one_of(_FRAMES, dice), scaled(_SKY, dice.uniform(0.1, 1.0)))
    if dice.chance(_REFLECTING):
        cutout, colors = _reflecting(cutout, dice), (*colors[:2], scaled(_SKY, dice.uniform(0.5, 1.1)))
    lit = [scaled(color, scene.exposure) for color in colors]
    if dice.chance(_GRADIENT):
        cutout = _clearing(cutout, dice.uniform(*_CLEAREST))
    paint(scene, cutout, lit)


def _reflecting(cutout: Cutout, dice: Dice) -> Cutout:
    """Return glasses in whose lenses a scene is seen, in the color of the sky. Draws: scene, strength."""
    sheet, strength = _surroundings(dice.index(_SCENES)), dice.uniform(0.4, 1.0)
    width, height = cutout.box.size
    lens, frame, sky = cv2.split(cutout.materials)
    # The middle of a sheet, its horizon, lies in the middle of the glasses.
    top, left = (_SCENE_SIZE - height) // 2, (_SCENE_SIZE - width) // 2
    seen = cv2.multiply(lens, sheet[top : top + height, left : left + width], scale=strength / 255)
    materials = cv2.merge([cv2.subtract(lens, seen), frame, cv2.add(sky, seen)])
    return cutout._replace(materials=np.asarray(materials, np.uint8))


@cache
def _surroundings(variant: int) -> NDArray[np.uint8]:
    """Return what a lens may reflect, uint8 [128, 128]: a bright sky, a ragged horizon, darker ground."""
    dice = fixed_dice("surroundings", variant)
    rows = np.arange(_SCENE_SIZE, dtype=np.float32)[:, None]
    knots = np.array([dice.around_zero(1.0, 12) for _ in range(12)], np.float32)
    size = (_SCENE_SIZE, _SCENE_SIZE)
    blobs = cv2.resize(knots, size, interpolation=cv2.INTER_CUBIC)
    ridge = cv2.resize(np.array([dice.around_zero(8.0, 14)], np.float32), (_SCENE_SIZE, 1))
    horizon = _SCENE_SIZE / 2 + dice.uniform(-8.0, 8.0) + ridge
    ground = np.clip((rows - horizon) / dice.uniform(1.0, 5.0), 0.0, 1.0)
    light = (1 - ground) * (0.8 + 0.2 * blobs) + ground * (0.1 + 0.2 * blobs)
    return read_only(np.rint(255 * light.clip(0.0, 1.0)).astype(np.uint8))


def _clearing(cutout: Cutout, left: float) -> Cutout:
    """Return glasses whose lenses, not their frame, clear downwards to a share that is left."""
    height = cutout.box.size[1]
    lens, frame, sky = cv2.split(cutout.materials)
    is_lens = cv2.compare(cv2.max(lens, sky), frame, cv2.CMP_GT)
    down = np.interp(np.linspace(0.0, 1.0, height), _FADES, (0.0, 1.0))
    kept = np.where(is_lens, 255 - np.rint(255 * (1 - left) * down).astype(np.uint8)[:, None], np.uint8(255))
    materials = [cv2.multiply(part, kept, scale=1 / 255) for part in (lens, frame, sky)]
    covered = cv2.multiply(cv2.bitwise_not(cutout.uncovered), kept, scale=1 / 255)
    return cutout._replace(
        materials=np.asarray(cv2.merge(materials), np.uint8), uncovered=np.asarray(cv2.bitwise_not(covered), np.uint8)
    )
