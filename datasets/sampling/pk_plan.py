"""The plan of one epoch of PK batches: which images go into which batch.

Every identity is cut into groups of K images. A batch takes one group from each of P identities, and an identity with
many images has many groups, so a greedy draw would end with a few large identities that cannot share a batch. Instead
the groups, identity after identity in random order, fill P rows of num_batches cells, and the cell's row-wise random
column is its batch. An identity has at most num_batches groups, hence lies in one row, or at the end of one and the
start of the next; where it does, the second row gives its start to columns that the end of the first did not take. So
batches hold distinct identities, all of them are full, and fewer than P groups are left over. An identity with more
groups than there are batches (then it alone is in every batch) leaves the rest out: no schedule could place them.
"""

from __future__ import annotations

from bisect import bisect_left

import numpy as np
from numpy.typing import NDArray

from datasets.sampling.grouping import Groups, Indices


def count_batches(num_groups: Indices, per_batch: int) -> int:
    """Return the most batches of `per_batch` distinct identities that can be made.

    n batches can be made when sum(min(num_groups, n)) >= n * per_batch, which holds up to one n and for none above.

    Args:
        num_groups: int64 [identities], groups of each.
        per_batch: identities in a batch, at most as many as there are.
    """

    def too_many(batches: int) -> bool:
        return int(np.minimum(num_groups, batches).sum()) < batches * per_batch

    return bisect_left(range(1, int(num_groups.sum()) // per_batch + 1), True, key=too_many)


def plan_epoch(
    groups: Groups, num_groups: Indices, per_batch: int, instances: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Return the images of all batches of an epoch.

    Args:
        groups: the images of each identity.
        num_groups: int64 [identities], groups of `instances` images that each identity gives this epoch.
        per_batch: identities in a batch.
        instances: images of an identity in a batch.
        rng: decides everything that is random.
    Returns:
        int64 [num_batches, per_batch * instances]; each block of `instances` columns is one identity. An identity's
        groups walk through its images in random order; a group that reaches the end goes on at the beginning.
    """
    identity, ordinal = _lay_out(num_groups, per_batch, rng)
    columns = _place(identity, rng)
    cells = np.empty(identity.shape[::-1], np.int64)
    cells[columns, np.arange(per_batch)[:, None]] = np.arange(identity.size).reshape(identity.shape)
    # Ranks take blocks of columns: without this an identity would meet the same rank for a whole epoch.
    cells = rng.permuted(cells, axis=1)
    chosen = identity.ravel()[cells][..., None]
    if groups.counts.max() == 1:  # single images: nothing is left to draw
        return groups.order[chosen].repeat(instances, axis=2).reshape(len(cells), -1)
    turn = ordinal.ravel()[cells][..., None] * instances + np.arange(instances)
    counts = groups.counts[chosen]
    # Only the last group of an identity goes beyond its images: a division for each image would take as long again.
    np.remainder(turn, counts, out=turn, where=turn >= counts)
    turn += groups.starts[chosen]
    return _shuffled_within(groups, rng)[turn].reshape(len(cells), -1)


def _lay_out(num_groups: Indices, per_batch: int, rng: np.random.Generator) -> tuple[Indices, Indices]:
    """Return identity and ordinal within the identity of every group to place, both [per_batch, num_batches]."""
    num_batches = count_batches(num_groups, per_batch)
    sequence = rng.permutation(len(num_groups))
    kept = np.minimum(num_groups, num_batches)[sequence]
    identity = np.repeat(sequence, kept)
    ordinal = np.arange(identity.size) - np.repeat(np.cumsum(kept) - kept, kept)
    surplus = rng.choice(identity.size, identity.size - per_batch * num_batches, replace=False)
    shape = (per_batch, num_batches)
    return np.delete(identity, surplus).reshape(shape), np.delete(ordinal, surplus).reshape(shape)


def _place(identity: Indices, rng: np.random.Generator) -> Indices:
    """Return the batch of every cell of [per_batch, num_batches]: rows are permutations, identities meet once."""
    per_batch, num_batches = identity.shape
    columns = np.empty_like(identity)
    for row in range(per_batch):
        columns[row] = rng.permutation(num_batches)
        start = identity[row, 0]
        if row == 0 or identity[row - 1, -1] != start:
            continue
        taken = np.zeros(num_batches, bool)
        taken[columns[row - 1][identity[row - 1] == start]] = True
        # Free columns first, each part still in random order; then all that follow the start in random order again.
        order = columns[row][np.argsort(taken[columns[row]], kind="stable")]
        length = int((identity[row] == start).sum())
        columns[row] = np.concatenate([order[:length], rng.permutation(order[length:])])
    return columns


def _shuffled_within(groups: Groups, rng: np.random.Generator) -> Indices:
    """Return the images sorted by identity, in random order within each."""
    identity = np.repeat(np.arange(len(groups.counts)), groups.counts)
    # The keys are sorted up to the order within identities, which a merge sort uses.
    return groups.order[np.argsort(identity + rng.random(identity.size), kind="stable")]
