"""What graph batches draw at random, for many batches at a time."""

from __future__ import annotations

import numpy as np

from datasets.sampling.grouping import Groups, Indices


def draw_distinct(sizes: Indices, count: int, rng: np.random.Generator) -> Indices:
    """Return `count` different numbers of [0, size) for every size, each set of them equally likely.

    Args:
        sizes: int64 of any shape, all >= count.
        count: numbers for each.
        rng: decides which.
    Returns:
        int64 [*sizes.shape, count]. The order within a set is not random.
    Reference: Floyd's sampling; Bentley, "Programming pearls: a sample of brilliance", CACM 30(9), 1987.
    """
    drawn = np.empty((count, *sizes.shape), np.int64)
    for place in range(count):
        last = sizes - (count - place)
        pick = rng.integers(last, endpoint=True)
        drawn[place] = np.where((drawn[:place] == pick).any(0), last, pick)
    return np.moveaxis(drawn, 0, -1)


def draw_others(identities: Indices, num_identities: int, count: int, rng: np.random.Generator) -> Indices:
    """Return `count` different identities beside each of the given ones, int64 [len(identities), count]."""
    others = draw_distinct(np.full(identities.shape, num_identities - 1), count, rng)
    return others + (others >= identities[:, None])


def draw_images(groups: Groups, identities: Indices, instances: int, rng: np.random.Generator) -> Indices:
    """Return images of identities at random.

    Args:
        groups: the images of every identity.
        identities: int64 of any shape.
        instances: images of each. They differ if the identity has so many; else all of its images come, some of them
            once more than others.
        rng: decides which.
    Returns:
        int64 [*identities.shape, instances], positions of images.
    """
    counts = groups.counts[identities]
    turn = draw_distinct(np.maximum(counts, instances), instances, rng)
    few = counts < instances
    scarce = counts[few]
    turn[few] = (rng.integers(scarce)[:, None] + np.arange(instances)) % scarce[:, None]
    return groups.order[groups.starts[identities][..., None] + turn]
