"""Pairs of images whose hashes differ in few bits, without comparing each with each.

The bits are dealt out to MAX_DISTANCE + 1 bands. Two hashes that differ in at most MAX_DISTANCE bits agree in all bits
of at least one band, so that only hashes with an equal band are compared.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from datasets.doctor.perceptual_hash import NUM_BITS, Hashes, distance

# Measured on synthetic faces: a copy stored as JPEG of quality 50 differs in up to 9 bits (99 of 100), with noise of 6
# levels 12, at half the resolution 3; different images in 61 or more. Real photographs of one person in one session
# come as close as 18.
MAX_DISTANCE = 12
# Compared with so many others of its bucket, an image costs no more where millions share a band.
_MAX_NEIGHBOURS = 64
_MAX_PAIRS = 2**22

Indices = NDArray[np.int64]


class NearPairs(NamedTuple):
    """Pairs of different hashes that are near each other.

    Attributes:
        first, second: int64 [N], positions, first < second.
        distance: int64 [N], bits that differ.
        complete: whether surely all were found; if not, buckets were too large, or there were too many pairs.
    """

    first: Indices
    second: Indices
    distance: Indices
    complete: bool


def near_pairs(hashes: Hashes) -> NearPairs:
    """Return the pairs of hashes [N, 4], all different, that differ in at most MAX_DISTANCE bits.

    Takes N log N time: in a bucket of equal bands each hash is compared with the next 64 in the order of another part
    of the hashes, and not more than four million pairs are returned.
    """
    num, found, complete = len(hashes), np.empty(0, np.int64), True
    for band in range(MAX_DISTANCE + 1):
        candidates, all_compared = _candidates(_key(hashes, band), hashes[:, band % 4], hashes)
        complete &= all_compared
        found = np.union1d(found, candidates)
        if len(found) > _MAX_PAIRS:
            found, complete = found[:_MAX_PAIRS], False
    first, second = found // max(num, 1), found % max(num, 1)
    return NearPairs(first, second, distance(hashes[first], hashes[second]), complete)


def _key(hashes: Hashes, band: int) -> NDArray[np.uint32]:
    """Return the bits of a band; every thirteenth one, so that a band holds some of all frequencies."""
    keys = np.zeros(len(hashes), np.uint32)
    for place, bit in enumerate(range(band, NUM_BITS, MAX_DISTANCE + 1)):
        value = hashes[:, bit // 64] >> np.uint64(bit % 64) & np.uint64(1)
        keys |= value.astype(np.uint32) << np.uint32(place)
    return keys


def _candidates(keys: NDArray[np.uint32], word: NDArray[np.uint64], hashes: Hashes) -> tuple[Indices, bool]:
    """Return pairs with equal keys that are near, as first * N + second, and whether all such pairs were compared.

    Those with equal keys are in the order of `word`, which brings near ones together where not all can be compared.
    """
    order = np.lexsort((word, keys))
    ordered = keys[order]
    found: list[Indices] = []
    for step in range(1, _MAX_NEIGHBOURS + 1):
        places = np.flatnonzero(ordered[step:] == ordered[:-step])
        if not places.size:
            return _join(found), True
        first, second = order[places], order[places + step]
        near = distance(hashes[first], hashes[second]) <= MAX_DISTANCE
        first, second = first[near], second[near]
        found.append(np.minimum(first, second) * len(hashes) + np.maximum(first, second))
        if sum(map(len, found)) > _MAX_PAIRS:
            return _join(found), False
    return _join(found), False


def _join(found: list[Indices]) -> Indices:
    return np.concatenate(found) if found else np.empty(0, np.int64)
