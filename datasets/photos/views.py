"""A photograph as a detector is shown it, and what is found there brought back to the photograph."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np

from datasets.photos.detection import Array, Detection, Image
from transforms import align

_MIRRORED = [1, 0, 2, 4, 3]  # the five points with left and right exchanged


class Look(NamedTuple):
    """One way of looking at a photograph.

    Attributes:
        name: of the way, for the table.
        scale: times the size of the first look.
        padding: black border on every side, as a share of the side.
        turns: quarter turns counterclockwise.
        threshold: of the detector's score; None: its usual one.
        mirrored: whether left and right are exchanged, after the turns.
    """

    name: str
    scale: float = 1.0
    padding: float = 0.0
    turns: int = 0
    threshold: float | None = None
    mirrored: bool = False


def view(image: Image, look: Look, scale: float) -> tuple[Image, Array]:
    """Return a photograph resized by a factor, with the border, turned and mirrored as a look says.

    Args:
        image: uint8 [H, W, 3].
        look: whose own scale is not used.
        scale: of both sides.
    Returns:
        uint8 [h, w, 3] and the matrix [2, 3] from there to the photograph, both with centers of pixels on integers.
    """
    height, width = image.shape[:2]
    sides = (max(1, round(width * scale)), max(1, round(height * scale)))
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    seen = image if scale == 1 else np.asarray(cv2.resize(image, sides, interpolation=method), np.uint8)
    border = [round(look.padding * side) for side in sides]
    if any(border):
        seen = cv2.copyMakeBorder(seen, border[1], border[1], border[0], border[0], cv2.BORDER_CONSTANT)  # type: ignore[assignment]  # uint8
    # Centers of pixels are whole numbers: the first of a view of half the size lies at 0.5 in the image.
    ratio = np.array([width / sides[0], height / sides[1]])
    back = np.concatenate([np.diag(ratio), ((0.5 - np.array(border)) * ratio - 0.5)[:, None]], axis=1)
    back = back @ _unturned(seen.shape, look.turns)
    seen = np.rot90(seen, look.turns)
    if look.mirrored:
        back = back @ np.array([[-1, 0, seen.shape[1] - 1], [0, 1, 0], [0, 0, 1]])
        seen = seen[:, ::-1]
    return np.ascontiguousarray(seen), back


def brought_back(found: Detection, back: Array) -> Detection:
    """Return what was found in a view as it lies in the photograph; `back` [2, 3] leads there."""
    corners = align.moved(found.box.reshape(2, 2), back)
    box = np.concatenate([corners.min(axis=0), corners.max(axis=0)])
    points = align.moved(found.points, back)
    is_mirrored = np.linalg.det(back[:, :2]) < 0
    return Detection(box, found.score, points[_MIRRORED] if is_mirrored else points)


def _unturned(shape: tuple[int, ...], turns: int) -> Array:
    """Return the matrix [3, 3] from an image turned by quarters counterclockwise to the image of this shape."""
    right, bottom = shape[1] - 1, shape[0] - 1
    rows = {
        0: [[1, 0, 0], [0, 1, 0]],
        1: [[0, -1, right], [1, 0, 0]],
        2: [[-1, 0, right], [0, -1, bottom]],
        3: [[0, 1, 0], [-1, 0, bottom]],
    }
    return np.array([*rows[turns], [0, 0, 1]], np.float64)
