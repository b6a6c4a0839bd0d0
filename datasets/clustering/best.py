"""The k best neighbours of every image, kept while pairs are found in any order and in little memory."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from datasets.clustering.lists import Visits

Int64Array = NDArray[np.int64]
FloatArray = NDArray[np.floating]

# Pairs that wait to be sorted in: 12 bytes each, and as much again while they are.
WAITING = 2**25
_SORTED = 2**22  # keys that are sorted at a time
_MISSING = np.iinfo(np.int64).min
_LARGEST_INDEX = 2**31 - 1


class Neighbours(NamedTuple):
    """The nearest neighbours of N images, best first; of equal cosines the lower index comes first.

    Attributes:
        indices: int64 [N, k]; -1 where an image has fewer than k. No image is its own neighbour.
        similarities: float32 [N, k] cosines; -inf beside -1.
        visits: how many lists each image visited; None where all pairs were multiplied.
    """

    indices: Int64Array
    similarities: NDArray[np.float32]
    visits: Visits | None = None


class BestNeighbours:
    """Collects pairs (image, neighbour, cosine), each given once, and keeps the k best of every image.

    A neighbour is kept as one int64: the cosine's bits in the order of floats, then the index, the lower the larger.
    So the best are the largest numbers, ties included, and no order of giving changes the result.

    Args:
        num_images: N, below 2^31.
        k: neighbours to keep, >= 1.
        threshold: least cosine.
    Attributes:
        keys: int64 [N, k], descending: what is known so far but for the pairs that wait.
        floors: float32 [N]: what a cosine must reach to matter to an image.
    """

    def __init__(self, num_images: int, k: int, threshold: float) -> None:
        if num_images > _LARGEST_INDEX:
            raise ValueError(f"{num_images} images are more than the {_LARGEST_INDEX} that clustering can number")
        self.keys: Int64Array = np.full((num_images, k), _MISSING, np.int64)
        self.floors: NDArray[np.float32] = np.full(num_images, threshold, np.float32)
        self._threshold = np.float32(threshold)
        self._waiting: list[tuple[NDArray[np.int32], Int64Array]] = []
        self._num_waiting = 0

    def add(self, images: Int64Array, neighbours: Int64Array, similarities: NDArray[np.float32]) -> None:
        """Give pairs, [P] each; those below an image's floor are dropped."""
        matters = similarities >= self.floors[images]
        rows = images[matters].astype(np.int32)
        self._waiting.append((rows, pack(similarities[matters], neighbours[matters])))
        self._num_waiting += len(rows)
        if self._num_waiting > WAITING:
            self.settle()

    def restore(self, keys: Int64Array) -> None:
        """Go on from the keys of an interrupted search, or join those of another rank."""
        self.settle()
        step = max(1, _SORTED // (2 * self.keys.shape[1]))
        for start in range(0, len(keys), step):
            self._merge(np.arange(start, min(len(keys), start + step)), keys[start : start + step])

    def settle(self) -> None:
        """Sort the waiting pairs in."""
        if not self._num_waiting:
            return
        rows, keys = (np.concatenate(parts) for parts in zip(*self._waiting, strict=True))
        self._waiting.clear()
        self._num_waiting = 0
        # scipy sorts by row in one pass over the pairs; the columns mean nothing.
        pairs = sparse.coo_array((keys, (rows, np.zeros_like(rows))), shape=(len(self.keys), 1))
        pairs.has_canonical_format = True  # or it would add up the keys of a row
        table = pairs.tocsr()
        counts = np.diff(table.indptr)
        # Rows of like length are padded to one length: few columns are sorted in vain.
        for low in 2 ** np.arange(int(counts.max()).bit_length()):
            self._settle_rows(table, np.flatnonzero((counts >= low) & (counts < 2 * low)), int(2 * low - 1))

    def _settle_rows(self, table: sparse.csr_array, rows: Int64Array, width: int) -> None:
        step = max(1, _SORTED // (width + self.keys.shape[1]))
        starts, counts = table.indptr[:-1].astype(np.int64), np.diff(table.indptr)
        for part in (rows[start : start + step] for start in range(0, len(rows), step)):
            place = np.arange(width)
            is_there = place < counts[part, None]
            given = np.full(is_there.shape, _MISSING, np.int64)
            given[is_there] = table.data[(starts[part, None] + place)[is_there]]
            self._merge(part, given)

    def _merge(self, rows: Int64Array, given: Int64Array) -> None:
        k = self.keys.shape[1]
        joined = np.concatenate([self.keys[rows], given], axis=1)
        joined.sort(axis=1)
        best = joined[:, : -k - 1 : -1]
        self.keys[rows] = best
        last = similarities_of(best[:, -1])
        self.floors[rows] = np.maximum(self._threshold, last)

    def result(self) -> Neighbours:
        """Return the neighbours found."""
        self.settle()
        return unpack(self.keys)


def pack(similarities: NDArray[np.float32], indices: NDArray[np.integer]) -> Int64Array:
    """Return int64 in the order of (cosine, then the lower index)."""
    bits = (similarities + np.float32(0)).view(np.int32).astype(np.int64)  # -0.0 becomes 0.0, to which it is equal
    ordered = bits ^ ((bits >> 31) & 0x7FFFFFFF)  # the larger a negative float's bits, the smaller the float
    return (ordered << 32) + (_LARGEST_INDEX - indices)


def similarities_of(keys: Int64Array) -> NDArray[np.float32]:
    """Return the float32 cosines in keys; -inf where there is none."""
    ordered = keys >> 32
    values = (ordered ^ ((ordered >> 31) & 0x7FFFFFFF)).astype(np.int32).view(np.float32)
    return np.where(keys == _MISSING, np.float32(-np.inf), values)


def unpack(keys: Int64Array) -> Neighbours:
    """Return what keys [N, k] stand for."""
    indices = _LARGEST_INDEX - (keys & 0xFFFFFFFF)
    return Neighbours(np.where(keys == _MISSING, -1, indices), similarities_of(keys))
