"""What the page of a run costs the run: status.html and status.json of a long one, and a row of metrics taken in.

Run as `python -m benchmarks status_page`; docs/monitoring.md has the table. 80 metrics have been logged 2,000 times,
ten warnings and ten incidents are there. "Share" is that of the time between two writings, with the default of
`--status_seconds`; a thread of its own writes, so training does not wait for the disk.
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any, cast

import pytorch_lightning as pl
import torch

from benchmarks.harness.program import Benchmark, scaled
from benchmarks.harness.tables import Column, Row, Table
from engine.files import WriteFailures
from engine.status.writing import StatusPage
from options.engine import EngineOptions

METRICS, ROWS = 80, 2_000
GOAL_MS = 50.0

TABLE = Table(
    "status_page",
    (
        Column("what", "what", width=44),
        Column("processor ms", "ms", "{:.2f}"),
        Column("goal", "goal_ms", "<= {:.0f}"),
        Column("share of the run", "share", "{:.3%}"),
        Column("ms until it is on the disk", "wall_ms", "{:.0f}"),
        Column("KB", "kb", "{:,.0f}"),
    ),
)


def _measure(args: argparse.Namespace) -> Iterator[tuple[Table, Row]]:
    options, failures = EngineOptions(), WriteFailures()
    with tempfile.TemporaryDirectory() as name:
        folder, trainer = Path(name), _trainer()
        page = StatusPage(folder, options, failures)
        rows = scaled(ROWS, args.scale, least=10)
        names = [
            f"{'train' if number % 2 else 'val'}_{number}_{'loss' if number % 3 else 'acc'}"
            for number in range(METRICS)
        ]
        begin = time.thread_time()
        for step in range(rows):
            page.logger.log_metrics({name: 1.0 + step % 97 for name in names}, step)
        of_row = 1000 * (time.thread_time() - begin) / rows
        incident = json.dumps(
            {"step": 3, "cause": "loss 1e9 is 50 times the median", "loss": 1e9, "indices": [[1] * 256]}
        )
        (folder / "incidents.jsonl").write_text(10 * f"{incident}\n", encoding="utf-8")
        page.setup(trainer, cast(pl.LightningModule, None), "fit")
        for number in range(10):
            logging.getLogger(__name__).warning("warning %d", number)
        written = _times(partial(page._tick, trainer), args.repeats)
        page.end(trainer, "finished")
        sizes = sum((folder / file).stat().st_size for file in ("status.html", "status.json"))
    if failures.missing:
        raise OSError(f"the page could not be written: {failures.missing}")
    processor, wall = (median(times) for times in zip(*written, strict=True))
    yield (
        TABLE,
        {
            "what": f"both files, every {options.status_seconds:g} s",
            "ms": processor,
            "goal_ms": GOAL_MS,
            "share": processor / 1000 / options.status_seconds,
            "wall_ms": wall,
            "kb": sizes / 1000,
            "runs": [each for each, _ in written],
        },
    )
    yield TABLE, {"what": f"a row of {METRICS} metrics taken in", "ms": of_row}


def _times(work: Callable[[], None], repeats: int) -> list[tuple[float, float]]:
    """Return the milliseconds of calls, on a processor and by the clock, after one that does not count."""
    found = []
    for _ in range(repeats + 1):
        begin = time.thread_time(), time.perf_counter()
        work()
        found.append((1000 * (time.thread_time() - begin[0]), 1000 * (time.perf_counter() - begin[1])))
    return found[1:]


def _trainer() -> Any:
    """Return what a page reads of a trainer in the middle of a run."""
    module = torch.nn.Identity()
    module.guard = SimpleNamespace(skipped=3)  # type: ignore[assignment]
    return SimpleNamespace(
        callbacks=[], global_step=20_000, current_epoch=2, world_size=1, global_rank=0, lightning_module=module,
        state=SimpleNamespace(stage=SimpleNamespace(value="train")),
        fit_loop=SimpleNamespace(epoch_loop=SimpleNamespace()), estimated_stepping_batches=40_000,
        strategy=SimpleNamespace(root_device=torch.device("cpu")),
        datamodule=SimpleNamespace(num_validated=100, drawn=lambda epoch, batches: {}),
    )  # fmt: skip


BENCHMARK = Benchmark((TABLE,), _measure)
