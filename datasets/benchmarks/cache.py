"""The benchmark of held-out identities, drawn once and kept in the user's cache folder."""

from __future__ import annotations

import logging
from pathlib import Path

from datasets.benchmarks.benchmark_folder import Benchmark, read_folder, save_benchmark
from datasets.benchmarks.converted import open_cached
from datasets.benchmarks.pairs import make_benchmark
from datasets.cache_folder import cache_folder, publish
from datasets.content_key import dataset_key
from datasets.sample import FaceDataset

logger = logging.getLogger(__name__)

# Raised whenever the same images and seed would give another benchmark.
_VERSION = 1


def cache_benchmark(
    dataset: FaceDataset, name: str = "own", max_pairs: int = 3000, seed: int = 0, cache: Path | None = None
) -> Benchmark:
    """Return `make_benchmark` of the same arguments, memory-mapped and shared by workers, ranks and later runs.

    It is kept under a key of the images' paths, sizes and times, their labels, how they are decoded and the arguments.
    Where the cache cannot be written, one warning says so and the benchmark stays in memory.

    Args:
        dataset, name, max_pairs, seed: see `make_benchmark`.
        cache: folder; None is the user's.
    Raises:
        ValueError: from `make_benchmark`.
    """
    folder = (cache or cache_folder()) / "benchmarks" / dataset_key(dataset, f"{_VERSION} {name} {max_pairs} {seed}")
    ready = open_cached(folder, name)
    if ready is not None:
        return ready
    benchmark = make_benchmark(dataset, name, max_pairs, seed)
    try:
        publish(folder, lambda temporary: save_benchmark(benchmark, temporary))
    except OSError as error:
        logger.warning("%s: cannot cache the benchmark (%s); it stays in memory", folder, error.strerror)
        return benchmark
    return read_folder(folder / name, name, verified=True)
