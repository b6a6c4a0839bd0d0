"""Graph sampling: a batch is an identity with those that the network finds most alike."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import ArrayLike, NDArray

from datasets.sampling.graph_plan import draw_images, draw_others
from datasets.sampling.grouping import Indices, check_labels, group_by_label
from datasets.sampling.samplers import PlannedSampler

# Batches planned at a time: few enough that a plan at full scale needs little memory, enough that numpy is not idle.
BLOCK = 256
# The fourth word of a generator's key (seed, epoch, block, .) tells the streams apart, and from those of PK batches.
_ORDER_STREAM, _BLOCK_STREAM, _PICTURE_STREAM = 2, 3, 4


class GraphBatchSampler(PlannedSampler):
    """Batches of an identity, the anchor, with its P - 1 nearest neighbours, K images each; P = batch_size / K.

    In an epoch every identity is the anchor of one batch, in random order. Within a batch the identities come in random
    order too, so that every rank gets near and far neighbours alike. The K images of an identity are drawn anew for
    each batch; they differ if it has so many, else some repeat.

    The neighbours come from the table of `set_neighbours`; before the first call they are other identities at random.

    The plan depends on (seed, epoch, table) alone and is made in blocks of batches while it is iterated: `plan()`, the
    whole of it, is int64 [num_identities, batch_size]. The table is no part of `state_dict`: who resumes in the middle
    of an epoch sets the table of that epoch first.

    Args:
        labels: [N] integers >= 0, in any order. Tables number the identities by ascending label.
        batch_size: images over all ranks, divisible by K * world_size.
        instances: K.
        seed: >= 0.
        rank, world_size: which block of whole identities of each batch to yield.
    Attributes:
        num_identities: rows of a table, and batches of an epoch.
        num_neighbours: P - 1.
        neighbours: the table in use, int32 [num_identities, num_neighbours], or None.
        before_epoch: None, or called with the epoch when its first batch, or the first that is left, is asked for: the
            last moment for `set_neighbours`, however early a loader and its workers draw.
    Raises:
        ValueError: if the sizes do not divide, or there are fewer than P identities.
        TypeError: if labels are not integers.
    Reference: Liao, Shao, "Graph Sampling Based Deep Metric Learning for Generalizable Person Re-Identification",
        CVPR 2022, arXiv:2104.01546, Sec. 3.2.
    """

    def __init__(
        self,
        labels: ArrayLike,
        batch_size: int,
        instances: int = 4,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if instances < 1 or world_size < 1 or batch_size < 1 or batch_size % (instances * world_size):
            raise ValueError(
                f"GraphBatchSampler: batch_size must be a positive multiple of {instances * world_size} ({instances} "
                f"images per identity, {world_size} ranks with whole identities), got {batch_size}"
            )
        super().__init__(batch_size, seed, rank, world_size)
        self._groups = group_by_label(check_labels(labels, "GraphBatchSampler"))
        self.instances = instances
        self.num_identities = len(self._groups.counts)
        self.num_neighbours = batch_size // instances - 1
        self.neighbours: NDArray[np.int32] | None = None
        self.before_epoch: Callable[[int], None] | None = None
        if self.num_identities <= self.num_neighbours:
            raise ValueError(
                f"GraphBatchSampler: a batch of {batch_size} needs {self.num_neighbours + 1} identities with "
                f"{instances} images each, the data hold {self.num_identities}; choose a smaller batch_size"
            )

    def __len__(self) -> int:
        return self.num_identities

    def set_neighbours(self, table: ArrayLike) -> None:
        """Take the neighbours for the iterations that start from now on; one that runs keeps those that it has.

        Args:
            table: integers [num_identities, >= num_neighbours]; row i holds the identities nearest to i, nearest first,
                each once and never i itself. Columns beyond num_neighbours are not read.
        Raises:
            ValueError: if the shape is another, or a row holds itself, an identity twice or one that does not exist.
            TypeError: if the numbers are not integers.
        """
        self.neighbours = _check_table(np.asarray(table), self.num_identities, self.num_neighbours)
        self._planned = None

    def draw_pictures(self, epoch: int) -> Indices:
        """Return one image of each identity, int64 [num_identities], drawn from (seed, epoch)."""
        identities = np.arange(self.num_identities)
        return draw_images(self._groups, identities, 1, self._generator(epoch, 0, _PICTURE_STREAM))[:, 0]

    def summary(self) -> str:
        """Return a line for the log about the current epoch."""
        source = "random others" if self.neighbours is None else "its nearest neighbours"
        return (
            f"epoch {self.epoch}: {len(self)} batches, each an identity with {self.num_neighbours} of {source}, "
            f"{self.instances} images of each"
        )

    def _plan(self) -> NDArray[np.int64]:
        return np.stack(list(self._rows(0)))

    def _batches(self) -> Iterator[tuple[int, int, list[int]]]:
        epoch = self.epoch
        if self.before_epoch is not None:
            self.before_epoch(epoch)
        for batch, images in enumerate(self._rows(self._start), self._start):
            self._done = batch + 1
            yield epoch, batch * self.batch_size + self._columns.start, images[self._columns].tolist()
        if self.epoch == epoch:
            self._start = 0

    def _rows(self, first: int) -> Iterator[NDArray[np.int64]]:
        """Yield the plan's rows from the one given; seed, epoch and table are those at the first of them."""
        epoch, table = self.epoch, self.neighbours
        anchors = self._generator(epoch, 0, _ORDER_STREAM).permutation(self.num_identities)
        for block in range(first // BLOCK, -(-self.num_identities // BLOCK)):
            generator = self._generator(epoch, block, _BLOCK_STREAM)
            rows = self._block(anchors[block * BLOCK : (block + 1) * BLOCK], table, generator)
            yield from rows[max(0, first - block * BLOCK) :]

    def _block(self, anchors: Indices, table: NDArray[np.int32] | None, rng: np.random.Generator) -> NDArray[np.int64]:
        if table is None:
            others = draw_others(anchors, self.num_identities, self.num_neighbours, rng)
        else:
            others = table[anchors].astype(np.int64)
        identities = rng.permuted(np.column_stack([anchors, others]), axis=1)
        return draw_images(self._groups, identities, self.instances, rng).reshape(len(anchors), -1)

    def _generator(self, epoch: int, block: int, stream: int) -> np.random.Generator:
        return np.random.default_rng((self.seed, epoch, block, stream))


def _check_table(table: NDArray[np.generic], num_identities: int, num_neighbours: int) -> NDArray[np.int32]:
    """Return the columns in use as a copy of our own."""
    place = "GraphBatchSampler.set_neighbours"
    if table.ndim != 2 or len(table) != num_identities or table.shape[1] < num_neighbours:
        raise ValueError(
            f"{place}: table must be [{num_identities}, {num_neighbours} or more], a row of neighbours for each "
            f"identity, got {list(table.shape)}; identities and batch_size must be those it was made for"
        )
    if table.dtype.kind not in "iu":
        raise TypeError(f"{place}: table must be integers, got {table.dtype}")
    used: NDArray[np.integer] = table[:, :num_neighbours]  # type: ignore[assignment]  # as just checked
    ordered = np.sort(used, axis=1)
    faults = {
        f"an identity outside [0, {num_identities})": ((used < 0) | (used >= num_identities)).any(1),
        "itself": (used == np.arange(num_identities)[:, None]).any(1),
        "an identity twice": (ordered[:, 1:] == ordered[:, :-1]).any(1),
    }
    for fault, rows in faults.items():
        if rows.any():
            row = int(rows.argmax())
            raise ValueError(
                f"{place}: {int(rows.sum())} rows hold {fault}, the first is row {row}: {used[row].tolist()[:8]}; pass "
                "the nearest others of each identity"
            )
    return used.astype(np.int32)
