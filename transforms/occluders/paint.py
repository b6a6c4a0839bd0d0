"""From a cutout to a view: colours, folds, light, and the mask that belongs to them.

Everything happens in the box that the occluder fills, in uint8: float32 images would cost three times as much.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import cv2
import numpy as np

from transforms.landmarks import IMAGE_SIZE
from transforms.occluders.assets import load_relief
from transforms.occluders.cutout import Cutout
from transforms.occluders.dice import Dice
from transforms.occluders.palette import Colour
from transforms.occluders.placement import Box
from transforms.occluders.scene import Scene
from transforms.view import Image, Mask, View

OPAQUE: Final = 127  # an alpha above this, more than half of 255, occludes
_GAINS: Final = (0.85, 1.08)  # of the light on an occluder
_LUMA: Final = np.array([[0.299, 0.587, 0.114]] * 3)


def paint(scene: Scene, cutout: Cutout, colours: Sequence[Colour], texture: str = "folds", depth: float = 0.25) -> View:
    """Return the scene's image behind a painted cutout.

    Args:
        scene: its dice draw gain and texture place (2), in this order.
        cutout: within the crop.
        colours: of the three materials; the painted values are clipped.
        texture: the texture that modulates the shade.
        depth: how strongly; 0 = flat.
    Returns:
        A view whose image differs from the scene's only where alpha > 0 and whose visibility is 0 where alpha > 127.
        A grey image stays grey.
    """
    matrix = np.array(colours).T * (scene.dice.uniform(*_GAINS) / 255.0)
    if scene.is_grey:
        matrix = _LUMA @ matrix
    painted = np.asarray(cv2.transform(cutout.materials, matrix), np.uint8)
    covering = _shaded(painted, cutout.box, scene.dice, texture, depth)
    return cover(scene.image, cutout.box, covering, cutout.alpha)


def _shaded(painted: Image, box: Box, dice: Dice, texture: str, depth: float) -> Image:
    """Return what fills a box, uint8 [height, width, 3], in the light of a random part of a texture.

    Draws: place (2).
    """
    sheet = load_relief(texture, depth)
    width, height = box.size
    row, column = dice.index(len(sheet) - height + 1), dice.index(len(sheet) - width + 1)
    return np.asarray(
        cv2.multiply(painted, sheet[row : row + height, column : column + width], scale=1 / 128), np.uint8
    )


def cover(image: Image, box: Box, covering: Image, alpha: Mask) -> View:
    """Return `image` behind something in a box.

    Args:
        image: uint8 [112, 112, 3].
        box: of size height x width.
        covering: uint8 [height, width, 3], multiplied by alpha.
        alpha: uint8 [height, width], 255 = opaque.
    """
    view = View(image.copy(), np.ones((IMAGE_SIZE, IMAGE_SIZE), np.uint8))
    part = view.image[box.slices]
    behind = cv2.multiply(part, cv2.cvtColor(cv2.bitwise_not(alpha), cv2.COLOR_GRAY2BGR), scale=1 / 255)
    cv2.add(behind, covering, part)
    cv2.threshold(alpha, OPAQUE, 1, cv2.THRESH_BINARY_INV, view.visibility[box.slices])
    return view
