"""Batch samplers: the whole epoch is planned at once, every rank takes its part of each batch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch.utils.data import Sampler

from datasets.sample import SampleKey
from datasets.sampling.grouping import check_labels, group_by_label
from datasets.sampling.pk_plan import count_batches, plan_epoch

EPOCH_MODES = ("images", "identities")
# The fourth word keeps the plan's generator apart from those of the augmentations, keyed (seed, epoch, position).
_PLAN_STREAM = (0, 1)
_SHUFFLE_STREAM = (0, 5)


class PlanSummary(NamedTuple):
    """What the plan of an epoch does with the images.

    Attributes:
        epoch: the epoch counted.
        num_batches: batches, the same on every rank.
        num_images: different images in them.
        num_repeated: places filled with an image that is in the epoch already.
        num_dropped: images that the epoch should hold and leaves out, because they fill no whole batch.
    """

    epoch: int
    num_batches: int
    num_images: int
    num_repeated: int
    num_dropped: int

    def __str__(self) -> str:
        return (
            f"epoch {self.epoch}: {self.num_batches} batches of {self.num_images} images, "
            f"{self.num_repeated} repeated to fill groups, {self.num_dropped} left out with the last partial batch"
        )


class PlannedSampler(Sampler[list[int]], ABC):
    """Base of batch samplers that plan an epoch: sharding over ranks, position and resuming.

    A plan is int64 [num_batches, batch_size] and depends on (seed, epoch) alone. Rank r takes the r-th contiguous block
    of columns, so the ranks' batches side by side are the one-process batch.

    An iteration starts at batch 0, except that after `load_state_dict` the iterations of that epoch start at the
    loaded position until one of them ends. Calling `set_epoch` with the current epoch changes nothing.

    Args:
        batch_size: images in a batch over all ranks, divisible by world_size.
        seed: >= 0.
        rank, world_size: which part of each batch to yield.
    Raises:
        ValueError: if rank is not in [0, world_size).
    """

    def __init__(self, batch_size: int, seed: int, rank: int, world_size: int) -> None:
        if not 0 <= rank < world_size:
            raise ValueError(f"{type(self).__name__}: rank must be in [0, world_size = {world_size}), got {rank}")
        self.batch_size = batch_size
        self.seed = seed
        self.epoch = 0
        width = batch_size // world_size
        self._columns = slice(rank * width, (rank + 1) * width)
        self._start = 0
        self._done = 0
        self._planned: tuple[tuple[int, int], NDArray[np.int64]] | None = None

    @abstractmethod
    def _plan(self) -> NDArray[np.int64]:
        """Return the plan of (self.seed, self.epoch)."""

    @abstractmethod
    def __len__(self) -> int:
        """Return the batches of a whole epoch, the same on every rank."""

    @abstractmethod
    def summary(self) -> PlanSummary | str:
        """Return what is a line for the log about the current epoch, as it is or by `str()`."""

    @property
    def sampler(self) -> PlannedSampler:
        """This sampler: Lightning calls `loader.batch_sampler.sampler.set_epoch`, never the batch sampler's."""
        return self

    def plan(self) -> NDArray[np.int64]:
        """Return the current epoch's images over all ranks, int64 [num_batches, batch_size]; kept until it changes."""
        key = (self.seed, self.epoch)
        if self._planned is None or self._planned[0] != key:
            self._planned = (key, self._plan())
        return self._planned[1]

    def __iter__(self) -> Iterator[list[int]]:
        self._done = self._start
        return (indices for _, _, indices in self._batches())

    def keys(self) -> Iterator[list[SampleKey]]:
        """Return the batches of `__iter__` as keys, which carry what the random numbers of a sample follow from."""
        self._done = self._start
        return (
            [SampleKey(0, index, epoch, first + offset) for offset, index in enumerate(indices)]
            for epoch, first, indices in self._batches()
        )

    def _batches(self) -> Iterator[tuple[int, int, list[int]]]:
        """Yield (epoch, position of the first image in the plan, images) of this rank's part of the remaining batches.

        The epoch is the one set when the first batch is asked for.
        """
        epoch, plan = self.epoch, self.plan()
        for batch in range(self._start, len(plan)):
            self._done = batch + 1
            yield epoch, batch * self.batch_size + self._columns.start, plan[batch, self._columns].tolist()
        if self.epoch == epoch:
            self._start = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next iteration; another epoch than the current one starts at its first batch."""
        if epoch != self.epoch:
            self.epoch, self._start, self._done = epoch, 0, 0

    def state_dict(self, batches_done: int | None = None) -> dict[str, int]:
        """Return {seed, epoch, batches_done}, the same on every rank.

        Args:
            batches_done: batches that training has consumed. None counts those handed out, which a loader with workers
                draws ahead of training: pass the trainer's own count there.
        """
        done = self._done if batches_done is None else batches_done
        return {"seed": self.seed, "epoch": self.epoch, "batches_done": done}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue where `state_dict` was taken, on any number of ranks; the state's seed replaces this one's.

        The end of an epoch is the start of the next: a loader whose workers draw as soon as it is iterated would
        otherwise find nothing and pass over an epoch.

        Raises:
            ValueError: if a key is missing or the position lies outside the epoch.
        """
        missing = {"seed", "epoch", "batches_done"} - state.keys()
        if missing:
            raise ValueError(f"{type(self).__name__}.load_state_dict: missing {sorted(missing)}; pass state_dict()'s")
        if not 0 <= state["batches_done"] <= len(self):
            raise ValueError(
                f"{type(self).__name__}.load_state_dict: batches_done must be in [0, {len(self)}], got "
                f"{state['batches_done']}; data set and batch size must be those of the saved run"
            )
        ended, self._start = divmod(state["batches_done"], len(self))
        self._done = self._start
        self.seed, self.epoch = state["seed"], state["epoch"] + ended


class PKBatchSampler(PlannedSampler):
    """Batches of P = batch_size / K different identities with K images each.

    With `epoch_by="images"` every image comes once in an epoch, but for the images repeated to fill the last group of
    an identity and the groups that do not fill a last batch; `summary` counts both. With "identities" every identity
    comes once, with K of its images at random. K places of an identity hold different images if it has so many.

    An identity so large that it would have to be in more batches than the others can fill comes once in every batch.

    Args:
        labels: [N] integers >= 0, in any order.
        batch_size: images over all ranks; P must be divisible by world_size.
        instances: K.
        seed: >= 0; the plan depends on (seed, epoch) alone.
        rank, world_size: which block of whole identities of each batch to yield.
        epoch_by: "images" or "identities".
    Raises:
        ValueError: if the sizes do not divide, or there are fewer than P identities.
        TypeError: if labels are not integers.
    """

    def __init__(
        self,
        labels: ArrayLike,
        batch_size: int,
        instances: int = 4,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        epoch_by: str = "images",
    ) -> None:
        if epoch_by not in EPOCH_MODES:
            raise ValueError(f"PKBatchSampler: epoch_by must be one of {EPOCH_MODES}, got {epoch_by!r}")
        check_sizes("PKBatchSampler", batch_size, instances, world_size)
        super().__init__(batch_size, seed, rank, world_size)
        self._groups = group_by_label(check_labels(labels, "PKBatchSampler"))
        self.instances = instances
        self._per_batch = batch_size // instances
        counts = self._groups.counts
        if len(counts) < self._per_batch:
            raise ValueError(
                f"PKBatchSampler: a batch of {batch_size} needs {self._per_batch} identities with {instances} images "
                f"each, the data hold {len(counts)}; {_largest_batch(len(counts), instances, world_size)}"
            )
        by_images = epoch_by == "images"
        self._num_groups = -(-counts // instances) if by_images else np.ones_like(counts)
        self._num_wanted = int((counts if by_images else np.minimum(counts, instances)).sum())
        self._num_batches = count_batches(self._num_groups, self._per_batch)

    def __len__(self) -> int:
        return self._num_batches

    def _plan(self) -> NDArray[np.int64]:
        rng = np.random.default_rng((self.seed, self.epoch, *_PLAN_STREAM))
        plan = plan_epoch(self._groups, self._num_groups, self._per_batch, self.instances, rng)
        return plan.astype(np.int64, copy=False)

    def summary(self) -> PlanSummary:
        """Count repeated and dropped images of the current epoch's plan; `str()` of it is a line for the log."""
        plan = self.plan()
        used = np.zeros(self._groups.order.size, bool)
        used[plan] = True
        num_images = int(used.sum())
        return PlanSummary(self.epoch, len(plan), num_images, plan.size - num_images, self._num_wanted - num_images)


class ShuffleBatchSampler(PlannedSampler):
    """Batches of images at random, whatever their identity; every image comes once in an epoch.

    What does not fill a last batch is left out, other images in each epoch.

    Args:
        num_images: images of the data set.
        batch_size: images over all ranks, divisible by world_size.
        seed: >= 0; the plan depends on (seed, epoch) alone.
        rank, world_size: which part of each batch to yield.
    Raises:
        ValueError: if batch_size does not divide among the ranks, or there are fewer images.
    """

    def __init__(self, num_images: int, batch_size: int, seed: int = 0, rank: int = 0, world_size: int = 1) -> None:
        check_sizes("ShuffleBatchSampler", batch_size, 1, world_size)
        super().__init__(batch_size, seed, rank, world_size)
        self._num_images = num_images
        if num_images < batch_size:
            raise ValueError(f"ShuffleBatchSampler: a batch of {batch_size} needs as many images, got {num_images}")

    def __len__(self) -> int:
        return self._num_images // self.batch_size

    def _plan(self) -> NDArray[np.int64]:
        rng = np.random.default_rng((self.seed, self.epoch, *_SHUFFLE_STREAM))
        return rng.permutation(self._num_images)[: len(self) * self.batch_size].reshape(-1, self.batch_size)

    def summary(self) -> PlanSummary:
        """Count the images that the current epoch's plan leaves out; `str()` of it is a line for the log."""
        num_images = len(self) * self.batch_size
        return PlanSummary(self.epoch, len(self), num_images, 0, self._num_images - num_images)


class PlannedBatches(Sampler[list[SampleKey]]):
    """Batch sampler for a `DataLoader` over a `TrainingView`: the keys of a sampler.

    Attributes:
        sampler: the planned sampler; Lightning sets the epoch on it.
    """

    def __init__(self, sampler: PlannedSampler) -> None:
        self.sampler = sampler

    def __iter__(self) -> Iterator[list[SampleKey]]:
        return self.sampler.keys()

    def __len__(self) -> int:
        return len(self.sampler)

    def set_epoch(self, epoch: int) -> None:
        """See `PlannedSampler.set_epoch`."""
        self.sampler.set_epoch(epoch)

    def state_dict(self, batches_done: int | None = None) -> dict[str, int]:
        """See `PlannedSampler.state_dict`."""
        return self.sampler.state_dict(batches_done)

    def load_state_dict(self, state: dict[str, int]) -> None:
        """See `PlannedSampler.load_state_dict`."""
        self.sampler.load_state_dict(state)


def check_sizes(place: str, batch_size: int, instances: int, world_size: int) -> None:
    """Raise ValueError, which names `place`, unless each rank gets a positive number of whole groups."""
    if instances < 1 or batch_size < 1 or batch_size % instances:
        raise ValueError(
            f"{place}: batch_size must be a positive multiple of the {instances} images per identity, got {batch_size}"
        )
    if world_size < 1 or (batch_size // instances) % world_size:
        holds = f"has {batch_size // instances} identities, which" if instances > 1 else "of single images"
        raise ValueError(
            f"{place}: a batch of {batch_size} {holds} cannot be divided among {world_size} ranks; choose a multiple "
            f"of {instances * world_size}"
        )


def _largest_batch(num_identities: int, instances: int, world_size: int) -> str:
    largest = num_identities // world_size * world_size * instances
    return f"the largest batch that works is {largest}" if largest else f"{world_size} ranks need {world_size}"
