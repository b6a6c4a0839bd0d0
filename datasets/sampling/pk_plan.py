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
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datasets.sampling.curriculum import draw_weighted
from datasets.sampling.grouping import Groups, Indices

Positions = NDArray[np.integer[Any]]  # int32 where all of them fit


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
) -> Positions:
    """Return the images of all batches of an epoch.

    Args:
        groups: the images of each identity.
        num_groups: int64 [identities], groups of `instances` images that each identity gives this epoch.
        per_batch: identities in a batch.
        instances: images of an identity in a batch.
        rng: decides everything that is random.
    Returns:
        integers [num_batches, per_batch * instances]; each block of `instances` columns is one identity. An identity's
        groups walk through its images in random order; a group that reaches the end goes on at the beginning.
    """
    # What is gathered from at random takes half the memory where it can.
    is_small = max(groups.order.size, instances * int(num_groups.sum())) < np.iinfo(np.int32).max
    identity, ordinal = _lay_out(num_groups, per_batch, rng, np.int32 if is_small else np.int64)
    columns = _place(identity, rng)
    cells = np.empty(identity.shape, identity.dtype)
    np.put_along_axis(cells, columns, np.arange(identity.size, dtype=cells.dtype).reshape(cells.shape), axis=1)
    # Ranks take blocks of columns: without this an identity would meet the same rank for a whole epoch.
    cells = rng.permuted(cells.T.astype(np.int64, order="C"), axis=1)
    chosen = identity.ravel()[cells]
    if groups.counts.max() == 1:  # single images: nothing is left to draw
        return groups.order[chosen].repeat(instances, axis=1)
    counts = groups.counts[chosen]
    turn = ordinal.ravel()[cells][..., None] * instances + np.arange(instances, dtype=ordinal.dtype)
    # Only the last group of an identity goes beyond its images: a division for each image would take as long again.
    beyond = turn[..., -1] >= counts
    turn[beyond] %= counts[beyond][:, None]
    turn += groups.starts.astype(turn.dtype)[chosen][..., None]
    return _shuffled_within(groups, rng).astype(turn.dtype)[turn].reshape(len(cells), -1)


def plan_single_images(
    quota: Indices, num_images: int, rng: np.random.Generator, weights: NDArray[np.float64] | None = None
) -> Indices:
    """Return the images of all batches of an epoch one after the other, int64 [sum of quota]; a batch has none twice.

    First comes the part of a pass that whole passes over all images leave, then these, each in an order of its own.

    Args:
        quota: int64 [batches], images of each, at most num_images.
        num_images: of a pass.
        rng: decides everything that is random.
        weights: float64 [num_images], of each image in the part of a pass; None: all alike.
    """
    ends, passes = np.cumsum(quota), np.empty(quota.sum(), np.int64)
    done, (_, length) = 0, divmod(len(passes), num_images)
    while done < len(passes):
        length = length or num_images
        if length == num_images or weights is None:
            images = _random_order(num_images, rng)[:length]
        else:
            images = rng.permutation(draw_weighted(weights, length, rng))
        batch = np.searchsorted(ends, done, side="right")
        before = passes[ends[batch] - quota[batch] : done]
        # The batch that has the end of the last pass takes the first of this one that it does not hold.
        head = images[: quota[batch]] if before.size else images[:0]
        images[: len(head)] = head[np.argsort(np.isin(head, before), kind="stable")]
        passes[done : done + length] = images
        done, length = done + length, 0
    return passes


def _random_order(num: int, rng: np.random.Generator) -> Indices:
    """Return the numbers below num in random order, twice as fast for millions as an exchange of each with another."""
    bits = int(num).bit_length()
    keys = rng.integers(0, 1 << (64 - bits), num, dtype=np.uint64) << np.uint64(bits)
    keys |= np.arange(num, dtype=np.uint64)
    keys.sort()
    return (keys & np.uint64((1 << bits) - 1)).astype(np.int64)


def _lay_out(
    num_groups: Indices, per_batch: int, rng: np.random.Generator, dtype: type[np.integer[Any]]
) -> tuple[Positions, Positions]:
    """Return identity and ordinal within the identity of every group to place, both [per_batch, num_batches]."""
    num_batches = count_batches(num_groups, per_batch)
    sequence = rng.permutation(len(num_groups))
    kept = np.minimum(num_groups, num_batches)[sequence]
    num, shape = int(kept.sum()), (per_batch, num_batches)
    identity = np.repeat(sequence.astype(dtype), kept)
    ordinal = np.arange(num, dtype=dtype) - np.repeat((np.cumsum(kept) - kept).astype(dtype), kept)
    surplus = rng.choice(num, num - per_batch * num_batches, replace=False)
    return np.delete(identity, surplus).reshape(shape), np.delete(ordinal, surplus).reshape(shape)


def _place(identity: Positions, rng: np.random.Generator) -> Indices:
    """Return the batch of every cell of [per_batch, num_batches]: rows are permutations, identities meet once."""
    per_batch, num_batches = identity.shape
    columns = np.empty(identity.shape, np.int64)
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
    keys = np.repeat(np.arange(len(groups.counts), dtype=np.float64), groups.counts)
    keys += rng.random(keys.size)
    # The keys are sorted up to the order within identities, which a merge sort uses.
    return groups.order[np.argsort(keys, kind="stable")]
