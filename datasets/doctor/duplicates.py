"""Which images of a set are copies of each other, and which are in the benchmark sets too."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from datasets.doctor.near_duplicates import near_pairs
from datasets.doctor.perceptual_hash import Hashes

Indices = NDArray[np.int64]


class Pairs(NamedTuple):
    """Pairs of images.

    Attributes:
        first, second: int64 [N], positions.
        distance: int64 [N], bits in which their perceptual hashes differ.
    """

    first: Indices
    second: Indices
    distance: Indices


class Duplicates(NamedTuple):
    """What `find_duplicates` found. Of copies of one image each is paired with the first.

    Attributes:
        exact: images of the set with equal pixels.
        near: images of the set that look the same.
        shared: an image of the set and one of a benchmark set, equal or alike; of copies the first.
        shared_images: int64 [N], all images of the set that are in a benchmark set.
        complete: whether surely all near duplicates were found.
    """

    exact: Pairs
    near: Pairs
    shared: Pairs
    shared_images: Indices
    complete: bool


def find_duplicates(pixels: NDArray[np.uint64], looks: Hashes, positions: Indices, num_own: int) -> Duplicates:
    """Return the copies among the images of a set and of benchmark sets.

    Args:
        pixels, looks: [N] and [N, 4], hashes of the pixels and perceptual hashes.
        positions: int64 [N], ascending: those below num_own are images of the set, the others of benchmark sets.
        num_own: images of the set, readable or not.
    """
    own = positions < num_own
    groups, unique_looks = _group(looks)
    first_own = _first(groups[own], positions[own], len(unique_looks))
    first_other = _first(groups[~own], positions[~own], len(unique_looks))
    near = near_pairs(unique_looks)
    mine = positions[own]
    exact, different = _equal(pixels[own], mine)
    # What looks equal in spite of other pixels, and what looks nearly equal.
    alike, _ = _equal(groups[own][different], mine[different])
    left, right = first_own[near.first], first_own[near.second]
    close = _existing(np.minimum(left, right), np.maximum(left, right), near.distance)
    shared = _join(
        _existing(first_own, first_other, np.zeros_like(first_own)),
        _existing(first_own[near.first], first_other[near.second], near.distance),
        _existing(first_own[near.second], first_other[near.first], near.distance),
    )
    in_both = np.isin(groups[own], groups[np.searchsorted(positions, shared.first)])
    return Duplicates(_join(exact), _join(alike, close), shared, mine[in_both], near.complete)


def _group(looks: Hashes) -> tuple[Indices, Hashes]:
    """Return the number of each hash among the different ones, and these."""
    order = np.lexsort(looks.T)
    ordered = looks[order]
    is_new = np.append(True, (ordered[1:] != ordered[:-1]).any(axis=1))[: len(looks)]
    groups = np.empty(len(looks), np.int64)
    groups[order] = np.cumsum(is_new) - 1
    return groups, ordered[is_new]


def _first(groups: Indices, positions: Indices, num: int) -> Indices:
    """Return the first position in each group, -1 where there is none."""
    first = np.full(num, -1, np.int64)
    present, places = np.unique(groups, return_index=True)
    first[present] = positions[places]
    return first


def _equal(values: NDArray[np.generic], positions: Indices) -> tuple[Pairs, Indices]:
    """Return each image with a value that was there before, paired with the first one, and where the first ones are."""
    _, places, inverse = np.unique(values, return_index=True, return_inverse=True)
    others = np.flatnonzero(places[inverse] != np.arange(len(values)))
    pairs = Pairs(positions[places[inverse[others]]], positions[others], np.zeros(len(others), np.int64))
    return pairs, np.sort(places)


def _existing(first: Indices, second: Indices, distance: Indices) -> Pairs:
    """Return the pairs of which both images exist: -1 stands for none."""
    exists = (first >= 0) & (second >= 0)
    return Pairs(first[exists], second[exists], distance[exists])


def _join(*parts: Pairs) -> Pairs:
    """Return the pairs of all parts by position."""
    joined = Pairs(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))
    order = np.lexsort((joined.second, joined.first))
    return Pairs(*(column[order] for column in joined))
