"""Exported graphs in onnxruntime against the same networks in torch, on one core, and seconds of an export.

Run as `python -m benchmarks export --threads 1`; it needs onnx, onnxscript and onnxruntime. Weights and images are
random. onnxruntime has as many threads as torch, and both take turns.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from functools import partial
from statistics import median

import torch

import nets
from benchmarks.harness.measure import alternate, ratio
from benchmarks.harness.program import Benchmark
from benchmarks.harness.tables import Column, Row, Table
from models.onnx.graphs import export_backbone
from models.onnx.sessions import open_session
from models.onnx.wrapped import SIZE, WrappedBackbone

BATCHES = (1, 8)
GOAL_SECONDS = 60.0

SPEED = Table(
    "export_speed",
    (
        Column("network", "what", width=24),
        Column("batch", "batch", "{:.0f}"),
        Column("onnxruntime / torch", "time_ratio", "{:.2f}x"),
        Column("torch ms", "torch_ms", "{:.1f}"),
        Column("onnxruntime ms", "ort_ms", "{:.1f}"),
    ),
)
SECONDS = Table(
    "export_seconds",
    (
        Column("export of", "what", width=24),
        Column("goal s", "goal", "<= {:.0f}"),
        Column("seconds", "seconds", "{:.1f}"),
        Column("processor s", "processor_seconds", "{:.1f}"),
        Column("MiB", "mib", "{:.1f}"),
    ),
)


@torch.inference_mode()
def speed_rows(arch: str, repeats: int) -> Iterator[Row]:
    """Yield the time of a network in onnxruntime over that in torch, for each batch."""
    torch.manual_seed(0)
    backbone = nets.build_model(arch).eval()
    session, module = open_session(export_backbone(backbone)), WrappedBackbone(backbone)
    in_torch = module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # as FaceModel has it
    for batch in BATCHES:
        images = module.example(SIZE, batch=batch)
        steps = {"torch": partial(in_torch, images), "ort": partial(session.run, None, {"images": images.numpy()})}
        runs = alternate(steps, repeats)
        seconds = {name: median(each) for name, each in runs.items()}
        yield {
            "what": arch,
            "batch": float(batch),
            "time_ratio": ratio(seconds["ort"], seconds["torch"]),
            "torch_ms": 1000 * seconds["torch"],
            "ort_ms": 1000 * seconds["ort"],
            "torch_runs": runs["torch"],
            "ort_runs": runs["ort"],
        }


def seconds_row(arch: str) -> Row:
    """Return how long one export takes, the first of its process but for those of the other table."""
    backbone = nets.build_model(arch).eval()
    start, of_processor = time.perf_counter(), time.process_time()
    graph = export_backbone(backbone)
    taken, used = time.perf_counter() - start, time.process_time() - of_processor
    return {
        "what": arch,
        "goal": GOAL_SECONDS,
        "seconds": taken,
        "processor_seconds": used,
        "mib": graph.ByteSize() / 2**20,
    }


def _measure(args: argparse.Namespace) -> Iterator[tuple[Table, Row]]:
    for arch in args.archs:
        for row in speed_rows(arch, args.repeats):
            yield SPEED, row
    yield SECONDS, seconds_row(args.exported)


BENCHMARK = Benchmark((SPEED, SECONDS), _measure)
