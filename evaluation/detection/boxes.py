"""Overlaps of boxes, and which detection finds which face."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


class Truth(NamedTuple):
    """The faces of an image.

    Attributes:
        boxes: float64 [N, 4], x1 y1 x2 y2 in pixels, right and lower edges.
        ignored: bool [N], faces that need not be found, and whose detections are no mistakes.
    """

    boxes: Floats
    ignored: Bools


class Found(NamedTuple):
    """What a detector says about an image.

    Attributes:
        boxes: float64 [M, 4], as of `Truth`.
        scores: float64 [M], larger is surer.
    """

    boxes: Floats
    scores: Floats


def overlaps(first: Floats, second: Floats, pixel: float = 0.0) -> Floats:
    """Return the intersection over union of boxes, float64 [M, N] in [0, 1].

    Args:
        first: [M, 4], x1 y1 x2 y2 in pixels.
        second: [N, 4].
        pixel: what is added to widths and heights: 0 where x2 is the right edge, 1 where it is the last column, as
            WIDER FACE's evaluation has it. Boxes that do not meet, and boxes without an area, have 0.
    """
    shared = _common(first, second, 0, pixel)
    shared *= _common(first, second, 1, pixel)
    union = np.add.outer(_areas(first, pixel), _areas(second, pixel))
    union -= shared
    return np.divide(shared, union, out=shared, where=shared > 0)


def _common(first: Floats, second: Floats, axis: int, pixel: float) -> Floats:
    """Return the length that boxes have in common along x (0) or y (1), [M, N]."""
    length = np.minimum.outer(first[:, axis + 2], second[:, axis + 2])
    length -= np.maximum.outer(first[:, axis], second[:, axis])
    length += pixel
    return np.maximum(length, 0.0, out=length)


def _areas(boxes: Floats, pixel: float) -> Floats:
    return (boxes[:, 2] - boxes[:, 0] + pixel) * (boxes[:, 3] - boxes[:, 1] + pixel)


def match(shared: Floats, ignored: Bools, iou: float, crowd: Bools | None = None) -> Ints:
    """Return which face each detection finds, int64 [M], -1 for none: COCO's greedy rule.

    Detections choose in their order, the surest first: of the faces that none before has, the one that overlaps most,
    of two alike the later. A face that counts is chosen before one that is ignored, however much more that overlaps.

    Args:
        shared: [M, N], of `overlaps`, rows by falling score.
        ignored: [N], faces that do not count.
        iou: least overlap, in (0, 1].
        crowd: [N], ignored faces that any number of detections may find; None: there are none.
    """
    found = np.full(len(shared), -1, np.int64)
    if not shared.size:
        return found
    taken = np.zeros(shared.shape[1], bool)
    least = min(iou, 1 - 1e-10)  # as COCO's code has it
    for row in np.flatnonzero((shared >= least).any(axis=1)).tolist():
        reached = (shared[row] >= least) & ~taken
        if (reached & ~ignored).any():
            reached &= ~ignored
        elif not reached.any():
            continue
        best = reached.size - 1 - int(np.where(reached, shared[row], -1.0)[::-1].argmax())
        found[row] = best
        taken[best] = crowd is None or not crowd[best]
    return found


def find_faces(truth: Truth, found: Found, iou: float = 0.5, threshold: float = -np.inf) -> Ints:
    """Return which detection finds each face of an image, int64 [N], -1 for none, by the rule of `match`.

    Args:
        truth, found: of one image.
        iou: least overlap, in (0, 1].
        threshold: detections with a lower score are left out.
    """
    order = np.argsort(-found.scores, kind="stable")
    order = order[found.scores[order] >= threshold]
    faces = match(overlaps(found.boxes[order], truth.boxes), truth.ignored, iou)
    finder = np.full(len(truth.boxes), -1, np.int64)
    finder[faces[faces >= 0]] = order[faces >= 0]
    return finder


def check_boxes(place: str, boxes: ArrayLike) -> Floats:
    """Return boxes as float64 [N, 4], or refuse them in the name of `place`.

    Raises:
        ValueError: if the shape is another, a number is not finite, or x2 < x1 or y2 < y1.
    """
    array = np.asarray(boxes, np.float64)
    if array.size == 0:
        return array.reshape(0, 4)
    if array.ndim != 2 or array.shape[1] != 4:
        raise ValueError(f"{place}: boxes must be [N, 4], x1 y1 x2 y2, got {list(array.shape)}")
    bad = np.flatnonzero(~np.isfinite(array).all(axis=1) | (array[:, 2:] < array[:, :2]).any(axis=1))
    if bad.size:
        raise ValueError(f"{place}: box {bad[0]} is {array[bad[0]].tolist()}; finite x1 <= x2 and y1 <= y2 are needed")
    return array


def check_images(place: str, truths: Sequence[Truth], found: Sequence[Found]) -> None:
    """Refuse faces and detections of images that do not fit each other, in the name of `place`.

    Raises:
        ValueError: if the numbers of images differ, a shape is wrong, or a number is not finite.
    """
    if len(truths) != len(found):
        raise ValueError(f"{place}: detections of {len(found)} images, but {len(truths)} have a truth")
    for image, (truth, detections) in enumerate(zip(truths, found, strict=True)):
        where = f"{place}: image {image}"
        num_faces, num_found = (len(check_boxes(where, part.boxes)) for part in (truth, detections))
        if truth.ignored.shape != (num_faces,) or truth.ignored.dtype != np.bool_:
            raise ValueError(f"{where}: ignored must be bool [{num_faces}], got {list(truth.ignored.shape)}")
        if detections.scores.shape != (num_found,) or not np.isfinite(detections.scores).all():
            raise ValueError(f"{where}: {num_found} finite scores expected, got {list(detections.scores.shape)}")
