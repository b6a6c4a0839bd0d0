"""Reading at the scale of MS1MV2: opening a record file, feeding training images, opening a benchmark set.

Run as `python -m benchmarks data`. The record file of the first table is simulated, 5.8 M images of a few bytes, built
in a temporary folder; each of its openings is a process of its own, imports not counted. The loader reads synthetic
faces, JPEG of quality 95, from records in this process, without workers: what it needs beyond decoding is what a worker
would need.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from benchmarks.harness.measure import alternate, ratio
from benchmarks.harness.program import Benchmark, scaled
from benchmarks.harness.tables import Column, Row, Table
from benchmarks.records import keep_images_only, open_in_process, plain_loop, write_simulated
from config import OCCLUDERS
from datasets import Benchmark as PairSet
from datasets import (
    PKBatchSampler,
    PlannedBatches,
    RecordDataset,
    TrainingView,
    collate,
    load_benchmark,
    save_benchmark,
    write_faces,
)
from datasets.synthetic.prepare import render_identities
from transforms import TrainingTransform

# The plain loop takes long at full scale: it runs on this share of the images, and times are per image.
PLAIN_SHARE = 0.05
BATCH_SIZE = 256  # the default of --batch_size
INSTANCES = 4
IMAGES_PER_IDENTITY = 16
WARM_EPOCHS = 12  # until nearly every placement of every occluder has been cut out, which a run does once

OPENING = Table(
    "opening",
    (
        Column("record file", "what", width=28),
        Column("time", "time_ratio", "{:.3f}x"),
        Column("seconds", "seconds", "{:.3f}"),
        Column("goal s", "goal", "<= {:.1f}"),
        Column("anonymous MiB", "anonymous_mib", "{:,.0f}"),
        Column("goal MB", "memory_goal", "<= {}"),
        Column("images", "num_images", "{:,}", width=11),
    ),
)
LOADER = Table(
    "loader",
    (
        Column("loader", "what", width=36),
        Column("speed", "speed_ratio", "{:.2f}x"),
        Column("goal", "goal", ">= {:.1f}x"),
        Column("images/s", "images_per_second", "{:,.0f}"),
    ),
)
SETS = Table(
    "benchmark_sets",
    (
        Column("benchmark set", "what", width=36),
        Column("seconds", "seconds", "{:.3f}"),
        Column("goal s", "goal", "<= {:.1f}"),
        Column("images", "num_images", "{:,}"),
    ),
)


def measure_opening(num_images: int, num_identities: int) -> Iterator[Row]:
    """Yield the figures of each way to open a simulated record file, over a plain loop over its headers."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["MASKWISE_CACHE"] = str(folder / "cache")
        write_simulated(folder, num_images, num_identities)
        sample = max(1, int(PLAIN_SHARE * num_images))
        plain = plain_loop(folder, sample) / sample * num_images
        yield {"what": "plain loop, scaled up", "time_ratio": 1.0, "seconds": plain, "num_images": num_images}
        cases: tuple[tuple[str, float | None, Callable[[], object]], ...] = (
            ("first, identity ranges", 3.0, lambda: None),
            ("with the sidecar", 0.3, lambda: None),
            ("first, labels in headers", None, lambda: keep_images_only(folder / "train.idx", num_images)),
            ("first, no .idx: a scan", None, lambda: (folder / "train.idx").unlink()),
        )
        for title, goal, prepare in cases:
            prepare()
            os.sync()  # what was just written must not compete with what is measured
            figures = open_in_process(folder)
            assert figures["images"] == num_images
            yield {
                "what": title,
                "time_ratio": ratio(figures["seconds"], plain),
                "seconds": figures["seconds"],
                "goal": goal,
                "anonymous_mib": figures["peak"],
                "memory_goal": None if goal is None else 400,
                "num_images": num_images,
            }


def write_face_records(folder: Path, num_identities: int) -> list[bytes]:
    """Write a record file of synthetic faces and return its JPEG payloads."""
    images, labels = render_identities("benchmark", num_identities, IMAGES_PER_IDENTITY)
    quality = [cv2.IMWRITE_JPEG_QUALITY, 95]
    payloads = [cv2.imencode(".jpg", image[..., ::-1], quality)[1].tobytes() for image in images]
    write_faces(folder, payloads, labels)
    return payloads


def epochs_of(dataset: RecordDataset, transform: TrainingTransform) -> Callable[[], None]:
    """Return a step that loads an epoch, another one each time."""
    batch_size = min(BATCH_SIZE, INSTANCES * len(dataset.class_names))
    sampler = PKBatchSampler(dataset.labels, batch_size, INSTANCES)
    view = TrainingView(dataset, transform, seed=0)
    loader = DataLoader(view, batch_sampler=PlannedBatches(sampler), collate_fn=collate)

    def step() -> None:
        sampler.set_epoch(sampler.epoch + 1)
        for _ in loader:
            pass

    return step


def decode(data: bytes) -> NDArray[np.uint8]:
    """Decode an image and nothing else."""
    return np.asarray(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR), np.uint8)


def decode_all(payloads: list[bytes]) -> None:
    """Decode images one after the other and keep none: the fastest that decoding gets."""
    for data in payloads:
        decode(data)


def decode_batches(payloads: list[bytes]) -> None:
    """Decode images and keep those of a batch, in memory that is fresh for each."""
    for start in range(0, len(payloads), BATCH_SIZE):
        _ = [decode(data) for data in payloads[start : start + BATCH_SIZE]]


def measure_loader(num_identities: int, repeats: int, warm_epochs: int) -> Iterator[Row]:
    """Yield images a second of bare decoding and of the training loader."""
    with tempfile.TemporaryDirectory() as folder:
        payloads = write_face_records(Path(folder), num_identities)
        dataset = RecordDataset(folder)
        occlude = epochs_of(dataset, TrainingTransform(occluders=OCCLUDERS, occlusion_prob=0.5))
        for _ in range(warm_epochs):
            occlude()
        bare = "bare decoding, OpenCV"
        steps = {
            bare: lambda: decode_all(payloads),
            "bare decoding, batches kept": lambda: decode_batches(payloads),
            "record, flip": epochs_of(dataset, TrainingTransform()),
            "record, flip, occlusion at 0.5": occlude,
        }
        goals = dict(zip(steps, (None, None, 0.9, 0.7), strict=True))
        runs = {name: [len(payloads) / s for s in seconds] for name, seconds in alternate(steps, repeats).items()}
        reference = statistics.median(runs[bare])
        for name, speeds in runs.items():
            speed = statistics.median(speeds)
            row: Row = {"what": name, "speed_ratio": ratio(speed, reference), "images_per_second": speed}
            yield {**row, "goal": goals[name], "runs": speeds}


def measure_benchmark(num_images: int, repeats: int) -> Row:
    """Return the seconds of opening a benchmark set from its memory map."""
    with tempfile.TemporaryDirectory() as folder:
        issame = np.arange(num_images // 2) % 2 == 0
        save_benchmark(PairSet(np.zeros((num_images, 112, 112, 3), np.uint8), issame, "lfw"), folder)
        seconds = alternate({"open": lambda: load_benchmark(folder, "lfw")}, repeats)["open"]
    return {
        "what": "load_benchmark, from its memory map",
        "seconds": statistics.median(seconds),
        "goal": num_images * 112 * 112 * 3 / 1e9,
        "num_images": num_images,
        "runs": seconds,
    }


def _measure(args: argparse.Namespace) -> Iterator[tuple[Table, Row]]:
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    num_identities = scaled(85_742, args.scale, least=50)
    for row in measure_opening(scaled(5_800_000, args.scale, least=20 * num_identities), num_identities):
        yield OPENING, row
    for row in measure_loader(scaled(64, args.scale, least=16), args.repeats, scaled(WARM_EPOCHS, args.scale, least=1)):
        yield LOADER, row
    yield SETS, measure_benchmark(scaled(12_000, args.scale, least=20) // 2 * 2, args.repeats)


BENCHMARK = Benchmark((OPENING, LOADER, SETS), _measure)
