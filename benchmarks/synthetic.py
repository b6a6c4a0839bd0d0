"""Speed of the synthetic faces: images a second on one core, drawing of the parameters and JPEG included.

Run as `python -m benchmarks synthetic`. Processor time is counted, not wall time: other programs do not matter.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator

import cv2

from benchmarks.harness.program import Benchmark, scaled
from benchmarks.harness.tables import Column, Row, Table
from datasets.synthetic.prepare import render_identities

IDENTITIES = 15
IMAGES_PER_IDENTITY = 20
GOAL = 300

TABLE = Table(
    "synthetic",
    (
        Column("what", "what", width=26),
        Column("images/s", "images_per_second", "{:,.0f}"),
        Column("goal", "goal", ">= {}"),
    ),
)


def images_per_second(num_identities: int) -> float:
    """Return the speed of rendering training images, over processor time."""
    start = time.process_time()
    images, _ = render_identities("benchmark", num_identities, IMAGES_PER_IDENTITY)
    return len(images) / (time.process_time() - start)


def _measure(args: argparse.Namespace) -> Iterator[tuple[Table, Row]]:
    cv2.setNumThreads(1)
    images_per_second(1)
    speeds = [images_per_second(scaled(IDENTITIES, args.scale, least=1)) for _ in range(args.repeats)]
    median = statistics.median(speeds)
    yield TABLE, {"what": "synthetic faces, one core", "images_per_second": median, "goal": GOAL, "runs": speeds}


BENCHMARK = Benchmark((TABLE,), _measure)
