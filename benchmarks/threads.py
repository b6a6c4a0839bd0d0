"""What a busy neighbor costs training on the CPU, under several ways in which threads wait for each other.

Run as `python -m benchmarks threads`. Each row trains in a process of its own, for how threads wait is read when torch
is loaded: a network of --arch, forward and backward, on all usable cores. All processes take turns of --seconds, one
at a time, first alone and then beside one process that only counts; rates are medians over --repeats such rounds. The
reference is the idle rate with the library's own way of waiting, which spins.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from benchmarks.harness.measure import ratio
from benchmarks.harness.program import Benchmark
from benchmarks.harness.tables import Column, Row, Table
from system.cores import SPIN_COUNT, usable_cores

ROOT = Path(__file__).resolve().parent.parent
WAITING = {
    "the library's own": {},
    f"ours, GOMP_SPINCOUNT={SPIN_COUNT}": {"GOMP_SPINCOUNT": SPIN_COUNT},
    "GOMP_SPINCOUNT=10000": {"GOMP_SPINCOUNT": "10000"},
    "OMP_WAIT_POLICY=passive": {"OMP_WAIT_POLICY": "passive"},
}
NEIGHBOR = "import os\nparent = os.getppid()\nwhile os.getppid() == parent: sum(range(10_000))"  # it ends with us
GOALS = {name: (0.95, 0.5) for name in WAITING if name.startswith("ours")}

TABLE = Table(
    "threads",
    (
        Column("threads wait as", "waiting", width=26),
        Column("idle", "idle_ratio", "{:.2f}x"),
        Column("goal", "idle_goal", ">= {:.2f}x"),
        Column("busy", "busy_ratio", "{:.2f}x"),
        Column("goal", "busy_goal", ">= {:.2f}x"),
        Column("idle images/s", "idle_rate", "{:.1f}"),
        Column("busy images/s", "busy_rate", "{:.1f}"),
    ),
)


class Trainer:
    """A process that trains when it is told to, and answers with its rate."""

    def __init__(self, environment: dict[str, str], arch: str, threads: int) -> None:
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_", "KMP_"))}
        command = [sys.executable, "-m", "benchmarks.threads", arch, str(threads)]
        self._process = subprocess.Popen(
            command, cwd=ROOT, env=clean | environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def rate(self, seconds: float) -> float:
        """Return the images per second of so many seconds of training."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(f"{seconds}\n")
        self._process.stdin.flush()
        return float(self._process.stdout.readline())

    def close(self) -> None:
        """End the process."""
        self._process.communicate("")


def train(arch: str, threads: int) -> None:
    """Train for each number of seconds that standard input holds, and write the images per second."""
    import torch

    from benchmarks import step

    torch.set_num_threads(threads)
    one_step = step.build_step(step.VARIANTS["float32, channels-last"], arch, batch_size=32)
    one_step()
    for line in sys.stdin:
        begin, count = time.perf_counter(), 0
        while time.perf_counter() - begin < float(line):
            one_step()
            count += 1
        print(32 * count / (time.perf_counter() - begin), flush=True)


def measure_rates(arch: str, seconds: float, threads: int, repeats: int) -> dict[str, dict[str, list[float]]]:
    """Return {waiting: {"idle", "busy": rates}}, all taking turns."""
    trainers = {name: Trainer(environment, arch, threads) for name, environment in WAITING.items()}
    rates: dict[str, dict[str, list[float]]] = {name: {"idle": [], "busy": []} for name in trainers}
    for trainer in trainers.values():
        trainer.rate(0.1)  # until it is built and warm
    try:
        for _ in range(repeats):
            for state in ("idle", "busy"):
                neighbor = subprocess.Popen([sys.executable, "-c", NEIGHBOR]) if state == "busy" else None
                try:
                    for name, trainer in trainers.items():
                        rates[name][state].append(trainer.rate(seconds))
                finally:
                    if neighbor is not None:
                        neighbor.kill()
                        neighbor.wait()
    finally:
        for trainer in trainers.values():
            trainer.close()
    return rates


def _measure(args: argparse.Namespace) -> Iterator[tuple[Table, Row]]:
    threads = args.threads or usable_cores()
    rates = measure_rates(args.arch, args.seconds * args.scale, threads, args.repeats)
    reference = median(next(iter(rates.values()))["idle"])
    for name, states in rates.items():
        idle, busy = median(states["idle"]), median(states["busy"])
        idle_goal, busy_goal = GOALS.get(name, (None, None))
        yield (
            TABLE,
            {
                "waiting": name,
                "idle_ratio": ratio(idle, reference),
                "idle_goal": idle_goal,
                "busy_ratio": ratio(busy, reference),
                "busy_goal": busy_goal,
                "idle_rate": idle,
                "busy_rate": busy,
                "runs": states["idle"] + states["busy"],
            },
        )


BENCHMARK = Benchmark((TABLE,), _measure)

if __name__ == "__main__":  # one of the processes
    train(sys.argv[1], int(sys.argv[2]))
