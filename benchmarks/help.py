"""Wall time of `python main.py --help`, against an interpreter that does nothing.

Run as `python -m benchmarks help`.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from statistics import median

from benchmarks.harness.measure import alternate, ratio
from benchmarks.harness.program import Benchmark
from benchmarks.harness.tables import Column, Row, Table

ROOT = Path(__file__).resolve().parent.parent
GOAL_SECONDS = 0.5
COMMANDS = {"python main.py --help": ["main.py", "--help"], "python -c pass": ["-c", "pass"]}

TABLE = Table(
    "help",
    (
        Column("command", "command", width=22),
        Column("time", "time_ratio", "{:.2f}x"),
        Column("seconds", "seconds", "{:.3f}"),
        Column("goal s", "goal_seconds", "<= {:.1f}"),
    ),
)


def _start(arguments: list[str]) -> None:
    subprocess.run([sys.executable, *arguments], cwd=ROOT, stdout=subprocess.DEVNULL, check=True)


def _measure(args: argparse.Namespace) -> Iterator[tuple[Table, Row]]:
    runs = alternate({command: partial(_start, words) for command, words in COMMANDS.items()}, args.repeats)
    ours, bare = COMMANDS
    for command, goal in ((ours, GOAL_SECONDS), (bare, None)):
        seconds = median(runs[command])
        row: Row = {
            "command": command,
            "time_ratio": ratio(seconds, median(runs[bare])),
            "seconds": seconds,
            "goal_seconds": goal,
            "runs": runs[command],
        }
        yield TABLE, row


BENCHMARK = Benchmark((TABLE,), _measure)
