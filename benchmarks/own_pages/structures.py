"""What every rank builds from the images' labels, at the scale of WebFace42M: the record index, the sampler, its plan.

Run as `python -m benchmarks structures`; docs/scaling.md has the tables, put there by hand. The record file is
simulated with tiny payloads, 2.5 GB of it in a temporary folder. Each row is a process of its own; memory is what it
cannot share or give back, beyond what its libraries hold.
"""

from __future__ import annotations

import argparse
import mmap
import multiprocessing
import os
import random
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.harness.program import Benchmark, scaled
from benchmarks.harness.tables import Column, Row, Table
from benchmarks.records import anonymous_mib, open_in_process, watch, write_simulated
from benchmarks.sampler import long_tailed_labels
from datasets import PKBatchSampler, RecordDataset, write_faces

IMAGES, IDENTITIES = 42_474_558, 2_059_906
BATCH_SIZE, NUM_RANKS = 8192, 64

TABLE = Table(
    "structures",
    (
        Column("what", "what", width=44),
        Column("seconds", "seconds", "{:.1f}"),
        Column("MiB at its peak", "peak_mib", "{:,.0f}"),
        Column("MiB kept", "kept_mib", "{:,.0f}"),
    ),
)

DISK_READS = Table(
    "disk_reads",
    (
        Column("reading", "what", width=44),
        Column("KiB an image", "kib", "{:,.0f}"),
        Column("read_ahead_kb of the disk", "read_ahead"),
    ),
)
# Far fewer than would read the whole file, however much the system reads ahead.
COLD_IMAGES, COLD_READS, PAYLOAD_BYTES = 60_000, 5, 4300

Build = Callable[[], object]


def build_sampler(num_images: int, num_identities: int) -> tuple[dict[str, float], dict[str, float]]:
    """Return the figures of constructing a rank's sampler and of planning an epoch, in this process."""
    labels = long_tailed_labels(num_images, num_identities)
    built: list[PKBatchSampler] = []
    construct = _figures(lambda: built.append(PKBatchSampler(labels, BATCH_SIZE, world_size=NUM_RANKS)))
    return construct, _figures(lambda: built[0].plan())


def _figures(action: Build) -> dict[str, float]:
    before = anonymous_mib()
    figures = watch(action)
    return {
        "seconds": figures["seconds"],
        "peak_mib": figures["peak"] - before,
        "kept_mib": anonymous_mib() - before,
    }


def measure_opening(num_images: int, num_identities: int) -> Iterator[Row]:
    """Yield the figures of opening a simulated record file for the first time, and again."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["MASKWISE_CACHE"] = str(folder / "cache")
        write_simulated(folder, num_images, num_identities)
        for title in ("record file, first opening", "record file, with the sidecar"):
            os.sync()
            found = open_in_process(folder)
            assert found["images"] == num_images
            peak, kept = found["peak"] - found["before"], found["after"] - found["before"]
            yield {"what": title, "seconds": found["seconds"], "peak_mib": peak, "kept_mib": kept}


def measure_disk_reads(folder: Path, num_images: int) -> Iterator[Row]:
    """Yield what the disk reads for images at random places of a record file that no cache holds.

    The file is written into the folder for a moment: the system's temporary ones may be in memory.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as name:
        payload = os.urandom(PAYLOAD_BYTES)
        write_faces(name, (payload for _ in range(num_images)), np.arange(num_images) // 20)
        chosen = random.Random(0).sample(range(num_images), COLD_READS)
        for what, advice in (("RecordDataset", None), ("a map without advice", mmap.MADV_NORMAL)):
            dataset = RecordDataset(name)
            _forget(Path(name) / "train.rec")
            if advice is not None:
                dataset._file._map.madvise(advice)
            before = _bytes_read()
            for index in chosen:
                dataset.record(index)
            kib = (_bytes_read() - before) / len(chosen) / 1024
            yield {"what": what, "kib": kib, "read_ahead": _read_ahead(Path(name))}


def _forget(path: Path) -> None:
    """Drop a file from the system's cache."""
    with path.open("rb") as stream:
        os.fsync(stream.fileno())
        os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _read_ahead(folder: Path) -> str | None:
    """Return the setting of the disk that holds a folder, None where it is not a block device of its own."""
    device = folder.stat().st_dev
    place = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}")
    settings = (place / "queue/read_ahead_kb", place / "../queue/read_ahead_kb")  # of a disk, of a partition's disk
    return next((path.read_text().strip() for path in settings if path.exists()), None)


def _bytes_read() -> int:
    return int(Path("/proc/self/io").read_text().split("\nread_bytes: ")[1].split()[0])


def _measure(args: argparse.Namespace) -> Iterator[tuple[Table, Row]]:
    num_identities = scaled(IDENTITIES, args.scale, least=BATCH_SIZE // 4)
    num_images = scaled(IMAGES, args.scale, least=20 * num_identities)
    for row in measure_opening(num_images, num_identities):
        yield TABLE, row
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        construct, plan = pool.submit(partial(build_sampler, num_images, num_identities)).result()
    yield TABLE, {"what": "PK sampler", **construct}
    yield TABLE, {"what": "plan of an epoch", **plan}
    for row in measure_disk_reads(args.output, scaled(COLD_IMAGES, args.scale, least=2000)):
        yield DISK_READS, row


BENCHMARK = Benchmark((TABLE, DISK_READS), _measure)
