"""The unordered pairs of N images: N * (N - 1) / 2 places, in the order of np.triu_indices(N, 1)."""

from collections.abc import Iterator
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from evaluation.protocols.checks import BoolArray, IntArray

Float = TypeVar("Float", np.float32, np.float64)
_SQUARE_CELLS = 2**20  # of the square of all pairs held at a time


def num_unordered_pairs(num_images: int) -> int:
    """Return N * (N - 1) / 2."""
    return num_images * (num_images - 1) // 2


def unordered_pairs(num_images: int) -> IntArray:
    """Return all pairs i < j of images, int64 [N * (N - 1) / 2, 2]."""
    return np.stack(np.triu_indices(num_images, 1), axis=1).astype(np.int64)


def pair_places(first: IntArray | int, second: IntArray, num_images: int) -> IntArray:
    """Return the places of pairs first < second; the arrays are broadcast."""
    # Row i follows i rows of num_images - 1, num_images - 2, ... pairs and begins with j = i + 1.
    return first * num_images - first * (first + 1) // 2 + second - first - 1


def block_places(rows: slice, columns: slice, num_images: int) -> tuple[BoolArray, IntArray]:
    """Return which cells [P, G] of a block of the square lie above its diagonal, and their places."""
    first, second = np.arange(rows.start, rows.stop)[:, None], np.arange(columns.start, columns.stop)[None, :]
    above = first < second
    return above, pair_places(first, second, num_images)[above]


def square_rows(
    pair_scores: NDArray[Float], images: IntArray, num_images: int, with_later: NDArray[Float] | None = None
) -> Iterator[tuple[IntArray, NDArray[Float]]]:
    """Yield (some of the images, their scores [P, N] with all; -inf with themselves), block by block of the images.

    Where an image scores otherwise as the first one of a pair, with_later are its scores with later images.
    """
    num_rows = max(1, _SQUARE_CELLS // num_images)
    for start in range(0, len(images), num_rows):
        block = images[start : start + num_rows]
        own, others = block[:, None], np.arange(num_images)[None, :]
        places = pair_places(np.minimum(own, others), np.maximum(own, others), num_images)
        # An image has no place with itself; what the formula gives there may lie outside and is not used.
        places[own == others] = 0
        scores = pair_scores[places]
        if with_later is not None:
            scores = np.where(own < others, with_later[places], scores)
        scores[own == others] = -np.inf
        yield block, scores
