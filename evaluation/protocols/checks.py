"""Checks of pair scores and labels, shared by every protocol of this package."""

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray: TypeAlias = NDArray[np.float64]
BoolArray: TypeAlias = NDArray[np.bool_]
IntArray: TypeAlias = NDArray[np.int64]
Folds: TypeAlias = int | NDArray[np.integer] | Sequence[int]


def check_issame(place: str, issame: ArrayLike) -> BoolArray:
    """Return issame as bool [N], N >= 1, or refuse it in the name of place.

    Raises:
        TypeError: if the values are not bool (0/1 integers are refused: they might be labels).
        ValueError: if the array is empty or not one-dimensional.
    """
    array = np.asarray(issame)
    if array.ndim != 1 or array.size == 0:
        raise ValueError(f"{place}: issame must be [N] with N >= 1, got shape {array.shape}; give one bool per pair.")
    if array.dtype != np.bool_:
        raise TypeError(f"{place}: issame must be bool, got {array.dtype}; convert it with astype(bool).")
    return array


def check_scores(place: str, scores: ArrayLike, num_pairs: int, num_rows: int | None = None) -> FloatArray:
    """Return scores as float64 [N] (or [num_rows, N] where num_rows is given and the scores have two axes).

    Raises:
        ValueError: on a wrong shape, or on a NaN score, which is named by its position.
    """
    array = np.asarray(scores, dtype=np.float64)
    shapes = [(num_pairs,)] if num_rows is None else [(num_pairs,), (num_rows, num_pairs)]
    if array.shape not in shapes:
        expected = " or ".join(str(list(shape)) for shape in shapes)
        raise ValueError(f"{place}: scores must be {expected} to match issame, got {list(array.shape)}.")
    invalid = np.argwhere(np.isnan(array))
    if len(invalid):
        position = ", ".join(str(index) for index in invalid[0])
        raise ValueError(
            f"{place}: scores must be numbers, got NaN at [{position}] ({len(invalid)} of {array.size} are NaN);"
            " find the image or layer that produced it."
        )
    return array


def check_both_kinds(place: str, issame: BoolArray) -> tuple[int, int]:
    """Return (number of genuine pairs, number of impostor pairs); refuse if either is zero."""
    num_genuine = int(issame.sum())
    num_impostor = issame.size - num_genuine
    if num_genuine == 0 or num_impostor == 0:
        raise ValueError(
            f"{place}: genuine and impostor pairs are both needed, got {num_genuine} genuine and"
            f" {num_impostor} impostor; add pairs of the missing kind."
        )
    return num_genuine, num_impostor
