"""Memory and processor time of a rank in a step of the sharded head: classes times ranks, each rank a gloo process.

Run as `python -m benchmarks head`. The global batch is the same for any number of ranks. Processor time is that of the
process: it needs no core per rank, as wall time would. Memory is what building the head and its first two steps add.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from torch import distributed, multiprocessing
from torch.nn import functional

import heads
from benchmarks.harness.measure import MIB, measure_extra_mib, ratio
from benchmarks.harness.program import Benchmark, scaled
from benchmarks.harness.tables import Column, Row, Table
from engine.composite import ShardSGD

RANKS = (1, 2, 4)
CLASSES = (10_000, 100_000, 1_000_000)

TABLE = Table(
    "head",
    (
        Column("classes", "num_classes", "{:,}", width=9),
        Column("ranks", "num_ranks"),
        Column("memory", "memory_ratio", "{:.2f}x"),
        Column("CPU time", "time_ratio", "{:.2f}x"),
        Column("MiB a rank", "extra_mib", "{:,.0f}"),
        Column("planned MiB", "planned_mib", "{:,.0f}"),
        Column("CPU s a rank and step", "seconds", "{:.4f}"),
        Column("rate", "rate"),
        Column("batch", "batch_size"),
    ),
)


class Job(NamedTuple):
    """What the ranks do; plain values, since they travel to other processes."""

    num_ranks: int
    sizes: list[int]  # classes
    embedding_size: int
    rate: float
    batch_size: int  # of all ranks together
    repeats: int
    folder: str  # where the ranks meet and leave their figures


class HeadSteps:
    """A head on this rank, and steps of it."""

    def __init__(self, job: Job, num_classes: int) -> None:
        margin = heads.build_head("adaface", job.embedding_size, 1)
        self.head = heads.PartialFC(margin, num_classes, job.rate, max_positives=job.batch_size // 4)
        self.optimizer = ShardSGD(self.head.weight, lr=0.1, momentum=0.9, weight_decay=5e-4)
        self.batch_size, self.num_classes = job.batch_size, num_classes
        self.count = 0

    def step(self) -> None:
        """Forward and backward pass and update, with 4 samples of each of a batch's classes."""
        generator = torch.Generator().manual_seed(self.count)
        size = self.head.weight.shape[1]
        embeddings = functional.normalize(torch.randn(self.batch_size, size, generator=generator))
        labels = torch.randint(self.num_classes, (self.batch_size // 4,), generator=generator).repeat_interleave(4)
        norms = torch.full((self.batch_size, 1), 20.0)
        mine = [part.chunk(self.head.num_ranks)[self.head.rank] for part in (embeddings, norms, labels)]
        self.head(mine[0].clone().requires_grad_(), mine[1], mine[2], self.count).loss.backward()
        self.optimizer.step(number=self.count)
        self.count += 1


def measure_head(job: Job, num_classes: int) -> dict[str, float | list[float] | None]:
    """Return memory and processor seconds of this rank; all ranks must call it together."""
    built: list[HeadSteps] = []

    def start() -> None:
        built.append(HeadSteps(job, num_classes))
        built[0].step()
        built[0].step()

    extra_mib = measure_extra_mib(start)
    runs = []
    for _ in range(job.repeats):
        before = time.process_time()
        built[0].step()
        runs.append(time.process_time() - before)
    return {"extra_mib": extra_mib, "seconds": statistics.median(runs), "runs": runs}


def _rank(rank: int, job: Job) -> None:
    torch.set_num_threads(1)
    meeting = f"file://{job.folder}/meet"
    distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=job.num_ranks)
    measure_head(job, job.sizes[0])  # what the libraries load at their first call is not the head's
    figures = [measure_head(job, size) for size in job.sizes]
    Path(job.folder, f"{rank}.json").write_text(json.dumps(figures))
    distributed.destroy_process_group()


def on_ranks(job: Job) -> list[Row]:
    """Return for each number of classes the figures of the rank that needs most."""
    with tempfile.TemporaryDirectory() as folder:
        # Ranks are forked from a process that has imported torch once.
        multiprocessing.set_forkserver_preload(["benchmarks.harness.measure"])
        args = (job._replace(folder=folder),)
        multiprocessing.start_processes(_rank, args, nprocs=job.num_ranks, start_method="forkserver")
        ranks = [json.loads(Path(folder, f"{rank}.json").read_text()) for rank in range(job.num_ranks)]
    rows: list[Row] = []
    for size, figures in zip(job.sizes, zip(*ranks, strict=True), strict=True):
        slowest = max(figures, key=lambda figure: figure["seconds"])
        memory = [figure["extra_mib"] for figure in figures if figure["extra_mib"] is not None]
        planned = heads.shard_bytes(
            size, job.embedding_size, job.num_ranks, job.rate, job.batch_size, job.batch_size // 4
        )
        row = {"num_classes": size, "num_ranks": job.num_ranks, "rate": job.rate, "batch_size": job.batch_size}
        rows.append({**row, **slowest, "extra_mib": max(memory, default=None), "planned_mib": planned / MIB})
    return rows


def _measure(args: argparse.Namespace) -> Iterator[tuple[Table, Row]]:
    sizes = [scaled(size, args.scale, least=4 * args.batch_size) for size in CLASSES]
    job = Job(1, sizes, args.embedding_size, args.rate, args.batch_size, args.repeats, "")
    rows = [on_ranks(job._replace(num_ranks=num_ranks)) for num_ranks in RANKS]
    for alone, *more in zip(*rows, strict=True):
        for row in (alone, *more):
            ratios: Row = {
                "memory_ratio": _ratio(row, alone, "extra_mib"),
                "time_ratio": _ratio(row, alone, "seconds"),
            }
            yield TABLE, {**row, **ratios}


def _ratio(row: Row, alone: Row, key: str) -> float | None:
    value, reference = row[key], alone[key]
    assert not isinstance(value, list | str) and not isinstance(reference, list | str)
    return ratio(value, reference)


BENCHMARK = Benchmark((TABLE,), _measure)
