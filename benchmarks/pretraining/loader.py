"""Reading faces for pretraining: a cache of decoded images against JPEG records, one core, no augmentation.

Run as `python -m benchmarks loader`. Hot: both are in memory, processor seconds of one process; the JPEGs are synthetic
faces, quality 95. Cold: what lies on the disk is dropped from memory before; bytes read are the kernel's (read_bytes in
/proc/self/io, Linux only), bytes used are those of the pixels. The plan is that of `WindowBatchSampler`, at a window
of an eighth of the images, so that it moves; single images at random are the usual way to read a memory map.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from benchmarks.harness.measure import ratio
from benchmarks.harness.program import Benchmark, scaled
from benchmarks.harness.tables import Column, Row, Table
from datasets import ArrayDataset, RecordDataset, write_faces
from datasets.arrays.format import IMAGE_BYTES
from datasets.conversion.encoding import Encoding
from datasets.conversion.outcome import Job
from datasets.conversion.to_arrays import images_to_arrays
from datasets.sampling.windows import WindowBatchSampler
from datasets.synthetic.prepare import render_identities

NUM_IMAGES = 2**14
RENDERED = 256  # different faces; the others are the same with other noise
SHARD_IMAGES = 2**12
BATCH_SIZE = 128

HOT = Table(
    "pretraining_loader_hot",
    (
        Column("hot", "what", width=44),
        Column("speed per core", "speed_ratio", "{:.2f}x"),
        Column("goal", "goal", ">= {:.1f}x"),
        Column("us an image", "microseconds", "{:.1f}"),
    ),
)
COLD = Table(
    "pretraining_loader_cold",
    (
        Column("cold", "what", width=44),
        Column("bytes read", "bytes_ratio", "{:.2f}x"),
        Column("goal", "goal", "<= {:.1f}x"),
        Column("us an image", "microseconds", "{:.1f}"),
        Column("wall us", "wall_microseconds", "{:.1f}"),
    ),
)


def write_sources(folder: Path, num_images: int) -> None:
    """Write JPEG records of faces and their cache."""
    images, _ = render_identities("loader", RENDERED // 4, 4)
    rng = np.random.default_rng(0)
    quality = [cv2.IMWRITE_JPEG_QUALITY, 95]
    payloads = []
    for number in range(num_images):
        image = images[number % len(images)][..., ::-1]
        noise = rng.integers(0, 4, image.shape, np.uint8) if number >= len(images) else np.zeros_like(image)
        payloads.append(cv2.imencode(".jpg", np.maximum(image, noise), quality)[1].tobytes())
    (folder / "records").mkdir()
    write_faces(folder / "records", payloads, np.arange(num_images) // 4)
    images_to_arrays(Job(folder / "records", folder / "arrays", Encoding()), SHARD_IMAGES)


def read_all(dataset: ArrayDataset | RecordDataset | _Mapped, order: NDArray[np.int64]) -> None:
    """Read images batch by batch, as a worker does."""
    batch = np.empty((BATCH_SIZE, 112, 112, 3), np.uint8)
    for start in range(0, len(order) - BATCH_SIZE + 1, BATCH_SIZE):
        for row, index in enumerate(order[start : start + BATCH_SIZE].tolist()):
            batch[row] = dataset.read(index)


def drop_from_memory(folder: Path) -> None:
    """Let the system forget what it holds of the files of a folder."""
    for path in folder.iterdir():
        number = os.open(path, os.O_RDONLY)
        try:
            os.fsync(number)
            os.posix_fadvise(number, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(number)


def disk_bytes() -> int:
    """Return the bytes that this process has had read from a disk."""
    fields = dict(line.split(": ") for line in Path("/proc/self/io").read_text(encoding="utf-8").splitlines())
    return int(fields["read_bytes"])


def measure_hot(folder: Path, plan: NDArray[np.int64], repeats: int) -> Iterator[Row]:
    """Yield processor time an image of records and of the cache, in turn."""
    arrays, records = ArrayDataset(folder / "arrays"), RecordDataset(folder / "records")
    windows = ArrayDataset(folder / "arrays")
    windows.read_by_blocks()
    ways: dict[str, Callable[[], None]] = {
        "JPEG records, at random": lambda: read_all(records, plan),
        "arrays, at random": lambda: read_all(arrays, plan),
        "arrays, over windows by blocks": lambda: read_all(windows, plan),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for repeat in range(repeats + 1):
        for name, way in ways.items():
            start = time.process_time()
            way()
            if repeat:
                seconds[name].append(time.process_time() - start)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    first = next(iter(medians.values()))
    for number, (name, median) in enumerate(medians.items()):
        micro = 1e6 * median / len(plan)
        yield {
            "what": name, "speed_ratio": ratio(first, median), "goal": 3.0 if number else None, "microseconds": micro,
        }  # fmt: skip


def measure_cold(folder: Path, plan: NDArray[np.int64]) -> Iterator[Row]:
    """Yield the bytes read from the disk over those used, of an epoch over windows and of single images at random."""
    windows = ArrayDataset(folder / "arrays")
    windows.read_by_blocks()
    mapped = _Mapped(folder / "arrays")
    some = np.random.default_rng(1).permutation(len(plan))[: max(BATCH_SIZE, len(plan) // 8)]
    cases = (
        ("arrays, an epoch over windows by blocks", windows, plan, 1.2),
        ("arrays, single images at random", ArrayDataset(folder / "arrays"), some, None),
        ("the same files as memory maps, at random", mapped, some, None),
    )
    for name, dataset, order, goal in cases:
        drop_from_memory(folder / "arrays")
        before, start, wall = disk_bytes(), time.process_time(), time.perf_counter()
        read_all(dataset, order)
        used = len(order) // BATCH_SIZE * BATCH_SIZE * IMAGE_BYTES
        yield {
            "what": name,
            "bytes_ratio": (disk_bytes() - before) / used,
            "goal": goal,
            "microseconds": 1e6 * (time.process_time() - start) / len(order),
            "wall_microseconds": 1e6 * (time.perf_counter() - wall) / len(order),
        }


class _Mapped:
    """The usual way: a memory map of each file."""

    def __init__(self, folder: Path) -> None:
        self._maps = [np.load(path, mmap_mode="r") for path in sorted(folder.glob("shard-*.npy"))]

    def read(self, index: int) -> NDArray[np.uint8]:
        return self._maps[index // SHARD_IMAGES][index % SHARD_IMAGES]


def measure(args: argparse.Namespace) -> Iterator[tuple[Table, Row]]:
    """Yield the rows of both tables."""
    num_images = scaled(NUM_IMAGES, args.scale, 2 * RENDERED)
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["MASKWISE_CACHE"] = str(folder / "cache")
        write_sources(folder, num_images)
        window = max(BATCH_SIZE, num_images // 8)
        plan = WindowBatchSampler(num_images, SHARD_IMAGES, BATCH_SIZE, window=window).plan().reshape(-1)
        for row in measure_hot(folder, plan, args.repeats):
            yield HOT, row
        for row in measure_cold(folder, plan) if Path("/proc/self/io").exists() else ():
            yield COLD, row


BENCHMARK = Benchmark((HOT, COLD), measure)
