"""Occluders cut out once: templates under fixed homographies, which a view only moves by whole pixels.

Warping a template takes a third of the time in which an image is decoded, so each process does it once for each of
VARIANTS placements, when one is first drawn, and keeps the results (25 KB each on average).
"""

from __future__ import annotations

from functools import cache
from typing import Final, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from transforms.landmarks import IMAGE_SIZE
from transforms.occluders.assets import load_template, read_only
from transforms.occluders.dice import Dice, fixed_dice
from transforms.occluders.placement import (
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
_SOFTNESSES: Final = (0.3, 1.2)  # of an edge: sigma in pixels of the crop
_LEAST_ALPHA: Final = 1 / 255
_BEYOND: Final = CANVAS_SIZE  # what touches the border of its canvas goes on as far as a crop can reach


class Cutout(NamedTuple):
    """A template seen in the crop and a margin around it.

    Attributes:
        materials: uint8 [height, width, 3]: the shades of three materials, multiplied by alpha.
        alpha: uint8 [height, width]: the coverage.
        box: where they are; it may reach into the margin.
    """

    materials: NDArray[np.uint8]
    alpha: Mask
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
        alpha = np.ascontiguousarray(self.alpha[rows, columns])
        height, width = alpha.shape
        top, left = top + down + first_row, left + across + first_column
        materials = np.ascontiguousarray(self.materials[rows, columns])
        return Cutout(materials, alpha, Box(top, top + height, left, left + width))


@cache
def worn_cutout(name: str, variant: int, margin: int) -> Cutout:
    """Return one of VARIANTS placements of a template on the face, read-only."""
    dice = fixed_dice(name, variant)
    return _cut_out(name, face_placement(dice), dice, margin)


@cache
def held_cutout(name: str, variant: int, margin: int, anchor: Point) -> Cutout:
    """Return one of VARIANTS placements of a template with its point `anchor` in the centre of the face, read-only."""
    dice = fixed_dice(name, variant)
    return _cut_out(name, free_placement(dice, anchor), dice, margin)


def _cut_out(name: str, canvas_to_crop: Matrix, dice: Dice, margin: int) -> Cutout:
    layers = load_template(name)
    box = box_around(project(_corners(layers[..., 3]), canvas_to_crop), margin)
    warped = warp(layers, canvas_to_crop, box)
    alpha = warped[..., 3:] / np.float32(255)
    layered = np.dstack([warped[..., :3] * alpha, alpha])
    blurred = cv2.GaussianBlur(layered, (3, 3), dice.uniform(*_SOFTNESSES), borderType=cv2.BORDER_REPLICATE)
    soft_alpha = np.asarray(blurred[..., 3:], np.float32)
    # What was uncovered takes on the materials beside it, else a dark seam would surround everything.
    beside = blurred[..., :3] / np.maximum(soft_alpha, _LEAST_ALPHA)
    materials = np.where(alpha > 0.5, warped[..., :3], beside)
    return Cutout(_levels(materials * soft_alpha), _levels(255 * soft_alpha[..., 0]), box)


def _levels(values: NDArray[np.float32]) -> NDArray[np.uint8]:
    return read_only(np.rint(values).clip(0, 255).astype(np.uint8))


def _corners(alpha: Mask) -> list[Point]:
    """Return four corners around all that is covered, in canvas pixels."""
    left, top, width, height = cv2.boundingRect(alpha)
    right, bottom = left + width, top + height
    columns = (left if left > 0 else -_BEYOND, right if right < CANVAS_SIZE else CANVAS_SIZE + _BEYOND)
    rows = (top if top > 0 else -_BEYOND, bottom if bottom < CANVAS_SIZE else CANVAS_SIZE + _BEYOND)
    return [(column, row) for column in columns for row in rows]
