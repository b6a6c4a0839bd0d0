"""The page of a report: seconds to write it and its size, against the plots of the same results.

Run as `python -m benchmarks report_page`. Scores are drawn, of three methods under two conditions; no picture of a face
is among them, so the size is that of tables, curves and script.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np

from benchmarks.harness.measure import Step, alternate, ratio
from benchmarks.harness.program import Benchmark, scaled
from benchmarks.harness.tables import Column, Row, Table
from evaluation import Resampling, evaluate_pairs
from evaluation.report import Results, read_results, write_report
from evaluation.report.page import write_page
from evaluation.report.plots import plot_report
from evaluation.report.results import PROTOCOL_FACTS, SCHEMA

NUM_PAIRS = 12_000
GOAL_SECONDS = 10.0
GOAL_MB = 3.0

TABLE = Table(
    "report_page",
    (
        Column("what", "what", width=30),
        Column("time", "time_ratio", "{:.2f}x"),
        Column("goal s", "goal_seconds", "<= {:.0f}"),
        Column("goal MB", "goal_mb", "<= {:.0f}"),
        Column("seconds", "seconds", "{:.2f}"),
        Column("MB", "mb", "{:.2f}"),
    ),
)


class Drawn(NamedTuple):
    """A way to draw, and what it wrote."""

    seconds: list[float]
    size: int


def build_results(num_pairs: int) -> Results:
    """Return results of drawn scores, half of them genuine, without intervals over people."""
    rng = np.random.default_rng(0)
    issame = np.arange(num_pairs) % 2 == 0
    weights = {"adaface": 0.5, "qaconv": 0.5}
    conditions: dict[str, dict[str, Any]] = {}
    for condition, gap in (("clean", 3.0), ("occluded", 1.5)):
        scores = {name: rng.normal(size=num_pairs) + gap * issame for name in weights}
        methods = evaluate_pairs(scores, issame, weights)
        conditions[condition] = {name: method.to_dict(Resampling(None, 20, 0)) for name, method in methods.items()}
    return Results(
        schema=SCHEMA,
        synthetic=True,
        missing=[],
        protocol=dict.fromkeys(PROTOCOL_FACTS, "drawn"),
        benchmarks={"drawn": {"checksum": "none", "conditions": conditions}},
    )


def rebuild(folder: Path) -> None:
    """Write the page from results.json, as `main.py report` does."""
    write_page(folder, read_results(folder / "results.json"))


def _measure(args: argparse.Namespace) -> Iterator[tuple[Table, Row]]:
    results = build_results(scaled(NUM_PAIRS, args.scale, least=40))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_report(folder, results)
        steps: dict[str, Step] = {
            "page from results.json": partial(rebuild, folder),
            "plots": partial(plot_report, folder, results),
        }
        seconds = alternate(steps, args.repeats)
        sizes = [(folder / "index.html").stat().st_size, sum(path.stat().st_size for path in folder.glob("*.png"))]
    page, plots = (Drawn(runs, size) for runs, size in zip(seconds.values(), sizes, strict=True))
    for what, drawn, goals in (
        ("page from results.json", page, (GOAL_SECONDS, GOAL_MB)),
        ("plots", plots, (None, None)),
    ):
        row: Row = {
            "what": what,
            "time_ratio": ratio(median(drawn.seconds), median(plots.seconds)),
            "goal_seconds": goals[0],
            "goal_mb": goals[1],
            "seconds": median(drawn.seconds),
            "mb": drawn.size / 1e6,
            "runs": drawn.seconds,
        }
        yield TABLE, row


BENCHMARK = Benchmark((TABLE,), _measure)
