"""What is computed once and kept in the user's cache folder."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import tempfile
from pathlib import Path

from datasets.benchmark import Benchmark, load_benchmark, save_benchmark
from datasets.pairs import make_benchmark
from datasets.sample import FaceDataset

logger = logging.getLogger(__name__)

# Raised whenever the same images and seed would give another benchmark.
_VERSION = 1


def cache_folder() -> Path:
    """Return the user's cache folder: $MASKWISE_CACHE, else maskwise in $XDG_CACHE_HOME, else in ~/.cache."""
    own = os.environ.get("MASKWISE_CACHE")
    if own:
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "maskwise"


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
    folder = (cache or cache_folder()) / "benchmarks" / _key(dataset, name, max_pairs, seed)
    if folder.exists():
        try:
            return load_benchmark(folder, name)
        except ValueError as error:
            logger.warning("%s; it is made again", error)
            shutil.rmtree(folder)
    benchmark = make_benchmark(dataset, name, max_pairs, seed)
    try:
        _publish(benchmark, folder)
    except OSError as error:
        logger.warning("%s: cannot cache the benchmark (%s); it stays in memory", folder, error.strerror)
        return benchmark
    return load_benchmark(folder, name)


def _publish(benchmark: Benchmark, folder: Path) -> None:
    """Save a benchmark in a new folder that appears complete; where another rank was faster, its folder stays."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        save_benchmark(benchmark, temporary)
        temporary.rename(folder)
    except OSError:
        if not folder.exists():
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _key(dataset: FaceDataset, name: str, max_pairs: int, seed: int) -> str:
    digest = hashlib.sha256(f"{_VERSION} {name} {max_pairs} {seed} {dataset.decoding}".encode())
    digest.update(dataset.labels.tobytes())
    for path in dataset.paths:
        try:
            status = path.stat()
            state = f"{path.absolute()} {status.st_size} {status.st_mtime_ns}"
        except OSError:
            state = f"{path.absolute()} missing"
        digest.update(os.fsencode(state) + b"\0")
    return digest.hexdigest()[:32]
