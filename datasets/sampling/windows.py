"""Batches at random out of a window that moves over the shards of a cache: the disk is read in long pieces."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from datasets.arrays.dataset import ArrayDataset
from datasets.sample import FaceDataset
from datasets.sampling.samplers import PlannedSampler, PlanSummary, ShuffleBatchSampler, check_sizes
from datasets.subset import Subset

WINDOW = 2**15
_WINDOW_STREAM = (0, 6)


class WindowBatchSampler(PlannedSampler):
    """Batches of images at random within windows of 2^15: in every epoch the shards come in another order.

    The shards of an epoch, in a random order, one after the other, are cut into windows; the images of each are
    shuffled. A cache has its images in one random order already, so a window is a fair sample of all of them. Every
    image comes once in an epoch; what does not fill a last batch is left out.

    Args:
        num_images: of the cache.
        shards: images of every shard but the last, or the first place of each shard, int64 ascending from 0.
        batch_size: images over all ranks, divisible by world_size.
        seed: >= 0; the plan depends on (seed, epoch) alone.
        rank, world_size: which part of each batch to yield.
        window: images.
    Raises:
        ValueError: if batch_size does not divide among the ranks, or there are fewer images.
    """

    def __init__(
        self,
        num_images: int,
        shards: int | NDArray[np.int64],
        batch_size: int,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        window: int = WINDOW,
    ) -> None:
        check_sizes("WindowBatchSampler", batch_size, 1, world_size)
        super().__init__(batch_size, seed, rank, world_size)
        if num_images < batch_size:
            raise ValueError(f"WindowBatchSampler: a batch of {batch_size} needs as many images, got {num_images}")
        self._num_images = num_images
        self._starts = np.arange(0, num_images, shards) if isinstance(shards, int) else shards
        self._window = window

    def __len__(self) -> int:
        return self._num_images // self.batch_size

    def _plan(self) -> NDArray[np.int64]:
        rng = np.random.default_rng((self.seed, self.epoch, *_WINDOW_STREAM))
        starts, ends = self._starts, np.append(self._starts[1:], self._num_images)
        rows = np.concatenate([np.arange(starts[shard], ends[shard]) for shard in rng.permutation(len(starts))])
        for start in range(0, len(rows), self._window):
            rng.shuffle(rows[start : start + self._window])
        return rows[: len(self) * self.batch_size].reshape(-1, self.batch_size)

    def summary(self) -> PlanSummary:
        """Count the images that the current epoch's plan leaves out; `str()` of it is a line for the log."""
        num_images = len(self) * self.batch_size
        return PlanSummary(self.epoch, len(self), num_images, 0, self._num_images - num_images)


def shuffled_batches(
    dataset: FaceDataset, batch_size: int, seed: int = 0, rank: int = 0, world_size: int = 1
) -> PlannedSampler:
    """Return the sampler of images at random: over windows for (a part of) a cache, else over all."""
    whole = dataset.dataset if isinstance(dataset, Subset) else dataset
    if not isinstance(whole, ArrayDataset):
        return ShuffleBatchSampler(len(dataset), batch_size, seed, rank, world_size)
    whole.read_by_blocks()
    starts = np.arange(0, len(whole), whole.shard_images)
    if isinstance(dataset, Subset):  # its images keep their order
        starts = np.searchsorted(dataset.indices, starts)
    return WindowBatchSampler(len(dataset), starts, batch_size, seed, rank, world_size)
