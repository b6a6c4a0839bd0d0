"""Occluders cut out once: templates under fixed homographies, which a view only moves by whole pixels.

Cutting one out takes longer than decoding an image, so each process does it once for each of VARIANTS placements, when
one is first drawn, and keeps the results (25 KB each on average).
"""

from __future__ import annotations

from functools import cache
from typing import Final, NamedTuple

import cv2
import numpy as np
from cv2.typing import MatLike
from numpy.typing import NDArray

from transforms.landmarks import IMAGE_SIZE
from transforms.painting.assets import Relief, load_relief, load_template, read_only
from transforms.painting.dice import Dice, fixed_dice
from transforms.painting.placement import (
    CANVAS_SIZE,
    Box,
    Matrix,
    Point,
    box_around,
    face_placement,
    free_placement,
    project,
    warp,
)
from transforms.view import Mask

VARIANTS: Final = 64  # placements of each template
FULL: Final = 0.6  # of the levels are used in neutral light: folds shine up to two thirds brighter
_SOFTNESSES: Final = (0.3, 1.2)  # of an edge: sigma in pixels of the crop
_BEYOND: Final = CANVAS_SIZE  # what touches the border of its canvas goes on as far as a crop can reach


class Cutout(NamedTuple):
    """Something seen in the crop and a margin around it.

    Attributes:
        materials: uint8 [height, width, 3]: the shaded coverage by three materials; 255 * FULL stands for a share of 1
            in neutral light.
        uncovered: uint8 [height, width]: the share that shows through, 255 = all.
        box: where they are; it may reach into the margin.
    """

    materials: NDArray[np.uint8]
    uncovered: Mask
    box: Box

    def moved(self, across: int, down: int) -> Cutout:
        """Return what is in the crop after a move by whole pixels, or by less, so that a pixel stays in it.

        Its arrays are contiguous: OpenCV splits and transforms other ones row by row, four times as slowly.
        """
        top, bottom, left, right = self.box
        down = min(max(down, 1 - bottom), IMAGE_SIZE - 1 - top)
        across = min(max(across, 1 - right), IMAGE_SIZE - 1 - left)
        first_row, first_column = max(0, -top - down), max(0, -left - across)
        rows = slice(first_row, IMAGE_SIZE - top - down)
        columns = slice(first_column, IMAGE_SIZE - left - across)
        uncovered = np.ascontiguousarray(self.uncovered[rows, columns])
        materials = np.ascontiguousarray(self.materials[rows, columns])
        height, width = uncovered.shape
        top, left = top + down + first_row, left + across + first_column
        return Cutout(materials, uncovered, Box(top, top + height, left, left + width))


@cache
def worn_cutout(name: str, variant: int, relief: Relief, margin: int) -> Cutout:
    """Return one of VARIANTS placements of a template on the face, read-only."""
    dice = fixed_dice(name, variant)
    return _cut_out(name, face_placement(dice), relief, dice, margin)


@cache
def held_cutout(name: str, variant: int, relief: Relief, margin: int, anchor: Point) -> Cutout:
    """Return one of VARIANTS placements of a template with its point `anchor` in the center of the face, read-only."""
    dice = fixed_dice(name, variant)
    return _cut_out(name, free_placement(dice, anchor), relief, dice, margin)


def shaded(materials: MatLike, relief: Relief, dice: Dice) -> NDArray[np.uint8]:
    """Return materials uint8 [height, width, 3] in the light of a random part of a relief, in Cutout's scale.

    Draws: place (2).
    """
    sheet = load_relief(relief)
    height, width = materials.shape[:2]
    row, column = dice.index(len(sheet) - height + 1), dice.index(len(sheet) - width + 1)
    part = sheet[row : row + height, column : column + width]
    return np.asarray(cv2.multiply(materials, part, scale=FULL / 128), np.uint8)


def _cut_out(name: str, canvas_to_crop: Matrix, relief: Relief, dice: Dice, margin: int) -> Cutout:
    layers = load_template(name)
    box = box_around(project(_corners(layers[..., 3]), canvas_to_crop), margin)
    warped = warp(layers, canvas_to_crop, box)
    sharp, alpha = cv2.cvtColor(warped, cv2.COLOR_BGRA2BGR), cv2.extractChannel(warped, 3)
    sigma = dice.uniform(*_SOFTNESSES)
    soft_alpha, soft_coverage = _blurred(alpha, sigma), _blurred(_times(sharp, alpha), sigma)
    # What was uncovered takes on the materials beside it, else a dark seam would surround everything.
    materials = cv2.divide(soft_coverage, cv2.cvtColor(soft_alpha, cv2.COLOR_GRAY2BGR), scale=255)
    cv2.copyTo(sharp, cv2.inRange(alpha, 128, 255), materials)
    coverage = shaded(_times(materials, soft_alpha), relief, dice)
    return Cutout(read_only(coverage), read_only(np.asarray(cv2.bitwise_not(soft_alpha), np.uint8)), box)


def _times(image: MatLike, alpha: MatLike) -> MatLike:
    return cv2.multiply(image, cv2.cvtColor(alpha, cv2.COLOR_GRAY2BGR), scale=1 / 255)


def _blurred(image: MatLike, sigma: float) -> MatLike:
    return cv2.GaussianBlur(image, (3, 3), sigma, borderType=cv2.BORDER_REPLICATE)


def _corners(alpha: Mask) -> list[Point]:
    """Return four corners around all that is covered, in canvas pixels."""
    left, top, width, height = cv2.boundingRect(alpha)
    right, bottom = left + width, top + height
    columns = (left if left > 0 else -_BEYOND, right if right < CANVAS_SIZE else CANVAS_SIZE + _BEYOND)
    rows = (top if top > 0 else -_BEYOND, bottom if bottom < CANVAS_SIZE else CANVAS_SIZE + _BEYOND)
    return [(column, row) for column in columns for row in rows]
