"""All pairs of several benchmarks as one data set, and its division over ranks."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from typing import Generic, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from datasets.benchmarks.benchmark import Benchmark
from datasets.sample import ArrayT, Image, IntT
from transforms import View, occlude

Occlude = Callable[[Image, np.random.Generator, Sequence[str]], View]


class PairSample(NamedTuple, Generic[ArrayT, IntT]):
    """One pair of a benchmark (`PairSample[Image, int]`); the default collate makes a batch of it, all tensors.

    Attributes:
        images: uint8 [2 or 3, 112, 112, 3] RGB: first, second and, where asked for, the second occluded; as a batch
            uint8 [B, 2 or 3, 112, 112, 3].
        benchmark: position in the list of benchmarks; as a batch int64 [B].
        index: pair within the benchmark; as a batch int64 [B].
    """

    images: ArrayT
    benchmark: IntT
    index: IntT  # type: ignore[assignment]  # hides tuple.index


class PairDataset(Dataset[PairSample[Image, int]]):
    """The pairs of benchmarks one after the other.

    The occluder of a pair is drawn with a generator keyed by (seed, name of the benchmark, pair), so it is the same in
    every validation, on every rank and whatever other benchmarks are present.

    Args:
        benchmarks: at least one.
        occluders: names to draw from for the occluded variant of the second image; empty for no variant.
        seed: >= 0.
        occlude: draws an occluder by name and applies it.
    Attributes:
        locations: int64 [N, 2], (benchmark, pair) of every item.
    """

    def __init__(
        self,
        benchmarks: Sequence[Benchmark],
        occluders: Sequence[str] = (),
        seed: int = 0,
        occlude: Occlude = occlude,
    ) -> None:
        if not benchmarks:
            raise ValueError("PairDataset: at least one benchmark is needed, got none")
        self.benchmarks = list(benchmarks)
        self.occluders = tuple(occluders)
        self.seed = seed
        self._occlude = occlude
        self.locations: NDArray[np.int64] = np.concatenate(
            [
                np.stack([np.full(len(benchmark), number), np.arange(len(benchmark))], axis=1)
                for number, benchmark in enumerate(self.benchmarks)
            ]
        )

    def __len__(self) -> int:
        return len(self.locations)

    def __getitem__(self, item: int) -> PairSample[Image, int]:
        number, index = self.locations[item].tolist()
        benchmark = self.benchmarks[number]
        images = np.array(benchmark.images[2 * index : 2 * index + 2])
        if self.occluders:
            rng = np.random.default_rng((self.seed, zlib.crc32(benchmark.name.encode()), index))
            occluded = self._occlude(images[1], rng, self.occluders).image
            images = np.concatenate([images, occluded[None]])
        return PairSample(images, number, index)


def shard_pairs(num_pairs: int, batch_size: int, rank: int, world_size: int) -> list[list[int]]:
    """Return one rank's batches of pair positions, without padding.

    Every pair is on exactly one rank, and every rank has the same number of batches, none of them empty, so collective
    operations in a step do not hang. Batches hold at most batch_size pairs; where that is 1 and the ranks cannot have
    equally many, one batch holds 2.

    Raises:
        ValueError: if there are fewer pairs than ranks, or rank or batch_size is out of range.
    """
    if batch_size < 1 or not 0 <= rank < world_size:
        raise ValueError(
            f"shard_pairs: batch_size must be >= 1 and rank in [0, {world_size}), got {batch_size} and {rank}"
        )
    if num_pairs < world_size:
        raise ValueError(f"shard_pairs: {num_pairs} pairs for {world_size} ranks; use at most {num_pairs} ranks")
    largest = -(-num_pairs // world_size)
    num_batches = min(-(-largest // batch_size), num_pairs // world_size)
    own = np.array_split(np.arange(num_pairs), world_size)[rank]
    return [batch.tolist() for batch in np.array_split(own, num_batches)]
