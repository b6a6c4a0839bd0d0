"""From a cutout to a view: its colors, and the mask that belongs to it.

Everything happens in the box that the occluder fills, in uint8: float32 images would cost three times as much.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import cv2
import numpy as np

from transforms.painting.cutout import FULL, Cutout
from transforms.painting.palette import Color
from transforms.painting.placement import Box
from transforms.painting.scene import Scene
from transforms.view import Image, Mask, View

OPAQUE: Final = 127  # a coverage above this, more than half of 255, occludes
_GAINS: Final = (0.85, 1.08)  # of the light on an occluder
_LUMA: Final = np.array([[0.299, 0.587, 0.114]] * 3)


def paint(scene: Scene, cutout: Cutout, colors: Sequence[Color]) -> None:
    """Put a painted cutout before the scene: a gray image stays gray.

    Args:
        scene: its dice draw the gain of the light.
        cutout: within the crop.
        colors: of the three materials; the painted values are clipped.
    """
    matrix = np.array(colors).T * (scene.dice.uniform(*_GAINS) / (255.0 * FULL))
    if scene.is_gray:
        matrix = _LUMA @ matrix
    cover(scene.view, cutout.box, np.asarray(cv2.transform(cutout.materials, matrix)), cutout.uncovered)


def cover(view: View, box: Box, covering: Image, uncovered: Mask) -> None:
    """Put something before a part of a view: it changes where something is covered, and hides where more than half is.

    Args:
        view: all of it visible so far.
        box: of size height x width.
        covering: uint8 [height, width, 3], multiplied by the coverage.
        uncovered: uint8 [height, width], the share that shows through, 255 = all.
    """
    part = view.image[box.slices]
    cv2.multiply(part, cv2.cvtColor(uncovered, cv2.COLOR_GRAY2BGR), part, scale=1 / 255)
    cv2.add(part, covering, part)
    cv2.threshold(uncovered, 254 - OPAQUE, 1, cv2.THRESH_BINARY, view.visibility[box.slices])
