"""Which faces are found: recall by size, by what is hidden of them, or by anything else that is known of each."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from evaluation.detection.boxes import Bools, Floats
from evaluation.protocols.roc import clopper_pearson

#: Sides of a square of the box's area, in pixels.
SIZE_EDGES: Final = (0.0, 8.0, 16.0, 32.0, 64.0, 128.0, float("inf"))
#: Shares of a face that are hidden; the last group holds 1.
OCCLUSION_EDGES: Final = (0.0, 0.01, 0.25, 0.5, 0.75, 1.0)


class RecallGroup(NamedTuple):
    """Faces that have something in common.

    Attributes:
        name: such as "8 to 16": at least 8 and less than 16, in the last group 16 too.
        num_faces: in the group.
        num_found: of them.
        recall: their share; NaN where there are no faces.
        interval: exact 95 % interval of the recall, as if faces were independent; (NaN, NaN) where there are none.
    """

    name: str
    num_faces: int
    num_found: int
    recall: float
    interval: tuple[float, float]


def face_sizes(boxes: Floats) -> Floats:
    """Return the side in pixels of a square as large as each box [N, 4], float64 [N]."""
    array = np.asarray(boxes, np.float64)
    return np.sqrt((array[:, 2] - array[:, 0]) * (array[:, 3] - array[:, 1]))


def recall_by(found: Bools, values: ArrayLike, edges: Sequence[float]) -> list[RecallGroup]:
    """Return the recall of faces in groups by a value.

    Args:
        found: bool [N], of the faces that count, from `find_faces(...) >= 0` at some score.
        values: [N], such as `face_sizes` or the share that is hidden. NaN, not known, belongs to no group.
        edges: rising bounds, at least two.
    Raises:
        ValueError: if shapes disagree, the edges do not rise, or a value lies beyond them.
    """
    array = np.asarray(values, np.float64)
    if found.ndim != 1 or array.shape != found.shape:
        raise ValueError(f"recall_by: a value for each of the {found.shape} faces is needed, got {array.shape}")
    if len(edges) < 2 or not (np.diff(edges) > 0).all():
        raise ValueError(f"recall_by: edges must rise, got {list(edges)}")
    known = ~np.isnan(array)
    if ((array[known] < edges[0]) | (array[known] > edges[-1])).any():
        raise ValueError(f"recall_by: a value lies outside [{edges[0]:g}, {edges[-1]:g}]")
    group = np.minimum(np.searchsorted(edges, array, side="right"), len(edges) - 1) - 1
    return [
        _group(f"{low:g} to {high:g}", found[known & (group == number)])
        for number, (low, high) in enumerate(itertools.pairwise(edges))
    ]


def recall_by_name(found: Bools, names: Sequence[str]) -> list[RecallGroup]:
    """Return the recall of faces in groups by a word, such as what covers them, sorted by it.

    Args:
        found: bool [N], as of `recall_by`.
        names: of each face, N words.
    Raises:
        ValueError: if there is not one word for each face.
    """
    words = np.array(names, str)
    if found.ndim != 1 or words.shape != found.shape:
        raise ValueError(f"recall_by_name: a word for each of the {found.shape} faces is needed, got {words.shape}")
    return [_group(name, found[words == name]) for name in sorted(set(names))]


def _group(name: str, found: Bools) -> RecallGroup:
    if not len(found):
        return RecallGroup(name, 0, 0, float("nan"), (float("nan"), float("nan")))
    num_found = int(found.sum())
    return RecallGroup(name, len(found), num_found, num_found / len(found), clopper_pearson(num_found, len(found)))
