"""A random block: what no template foresees."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import cv2
import numpy as np

from transforms.landmarks import IMAGE_SIZE
from transforms.painting.assets import Relief
from transforms.painting.cutout import Cutout, shaded
from transforms.painting.dice import Dice
from transforms.painting.occluder import DrawnOccluder
from transforms.painting.paint import cover, paint
from transforms.painting.palette import Color, fabric_color, hair_color, skin_color
from transforms.painting.placement import box_around
from transforms.painting.scene import Scene
from transforms.painting.wear import printed

_AREAS: Final = (0.06, 0.30)  # of the rectangle, in images
_ASPECTS: Final = (0.4, 2.5)
_FRACTION_BITS: Final = 4
_NOISE_SIDES: Final = (8, IMAGE_SIZE)


@DrawnOccluder
def block(scene: Scene) -> None:
    """Cover a turned rectangle of 6 to 30 % of the image, or the ellipse inside it, anywhere in the image.

    Its surface is noise, one flat color, skin, hair or a printed fabric.
    Draws: shape, then the surface.
    """
    _SURFACES[scene.dice.index(len(_SURFACES))](scene, _shape(scene.dice))


def _noise(scene: Scene, shape: Cutout) -> None:
    """Cover with squares of random colors, as many to the box as they would be to the image."""
    side = round(scene.dice.uniform(*_NOISE_SIDES))
    size = shape.box.size
    width, height = (math.ceil(length * side / IMAGE_SIZE) for length in size)
    channels = 1 if scene.is_gray else 3
    noise = scene.dice.bytes(height * width * channels).reshape(height, width, channels)
    squares = cv2.resize(noise, size, interpolation=cv2.INTER_NEAREST)
    if scene.is_gray:
        squares = cv2.cvtColor(squares, cv2.COLOR_GRAY2RGB)
    coverage = cv2.cvtColor(cv2.bitwise_not(shape.uncovered), cv2.COLOR_GRAY2RGB)
    covering = cv2.multiply(squares, coverage, scale=1 / 255)
    cover(scene.view, shape.box, np.asarray(covering, np.uint8), shape.uncovered)


def _flat(scene: Scene, shape: Cutout) -> None:
    _paint(scene, shape, [fabric_color(scene.dice)] * 3, Relief("grain", 0.0))


def _skin(scene: Scene, shape: Cutout) -> None:
    _paint(scene, shape, [skin_color(scene)] * 3, Relief("grain", 0.25))


def _hair(scene: Scene, shape: Cutout) -> None:
    _paint(scene, shape, [hair_color(scene)] * 3, Relief("strands", 0.5))


def _fabric(scene: Scene, shape: Cutout) -> None:
    dice = scene.dice
    colors = [fabric_color(dice) for _ in range(3)]
    _paint(scene, printed(shape, dice, probability=1), colors, Relief("folds", 0.3))


def _paint(scene: Scene, shape: Cutout, colors: Sequence[Color], relief: Relief) -> None:
    paint(scene, shape._replace(materials=shaded(shape.materials, relief, scene.dice)), colors)


def _shape(dice: Dice) -> Cutout:
    """Draw an anti-aliased shape of one material, not yet shaded.

    Draws: area, aspect, angle, place (2), rectangle or ellipse.
    """
    area = IMAGE_SIZE**2 * dice.uniform(*_AREAS)
    aspect = math.exp(dice.uniform(math.log(_ASPECTS[0]), math.log(_ASPECTS[1])))
    width, height = math.sqrt(area * aspect), math.sqrt(area / aspect)
    angle = dice.uniform(-90.0, 90.0)
    cos, sin = math.cos(math.radians(angle)) / 2, math.sin(math.radians(angle)) / 2
    # From the center to two neighbouring corners.
    corners = (
        (width * cos - height * sin, width * sin + height * cos),
        (width * cos + height * sin, width * sin - height * cos),
    )
    reach_x, reach_y = (max(abs(first), abs(second)) for first, second in zip(*corners, strict=True))
    x, y = _place(reach_x, dice), _place(reach_y, dice)
    box = box_around(((x - reach_x, y - reach_y), (x + reach_x, y + reach_y)))
    x, y = x - box.left, y - box.top
    alpha = np.zeros(box.size[::-1], np.uint8)
    if dice.chance(0.7):
        (a, b), (c, d) = corners
        outline = [(x + a, y + b), (x + c, y + d), (x - a, y - b), (x - c, y - d)]
        vertices = [(round(column * 2**_FRACTION_BITS), round(row * 2**_FRACTION_BITS)) for column, row in outline]
        cv2.fillConvexPoly(alpha, np.array(vertices, np.int32), 255, cv2.LINE_AA, _FRACTION_BITS)
    else:
        cv2.ellipse(alpha, ((x, y), (width, height), angle), 255, -1, cv2.LINE_AA)
    nothing = np.zeros_like(alpha)
    materials, uncovered = cv2.merge([alpha, nothing, nothing]), cv2.bitwise_not(alpha)
    return Cutout(np.asarray(materials, np.uint8), np.asarray(uncovered, np.uint8), box)


def _place(reach: float, dice: Dice) -> float:
    """Draw the center of a shape that reaches so far along one axis and stays inside, where it can."""
    margin = min(reach, IMAGE_SIZE / 2 - 1)
    return dice.uniform(margin, IMAGE_SIZE - 1 - margin)


_SURFACES: Final = (_noise, _flat, _skin, _hair, _fabric)
