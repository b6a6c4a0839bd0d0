"""Checks and figures of a GPU in three parts of at most 4 minutes: `make gpu PART=1`, nothing to install.

Part 1 checks the kernels, the matcher, the updates and marked tests, part 2 programs and networks, part 3 measures.
What this machine lacks is reported as "not run". OUT/gpu_part_N.json is replaced after every check, so what was done
stays when the run is cut off; each part ends with the table of all parts, which `table` alone prints again. The exit
code is 0 if everything that ran passed and something ran.
"""

from __future__ import annotations

import argparse
import importlib
import os
import signal
import sys
import time
from pathlib import Path
from typing import NamedTuple

from benchmarks.gpu import table
from system.cores import usable_cores

START = time.monotonic()
SECONDS = 225.0  # of a part; what has not begun by then is not run


class Part(NamedTuple):
    """Modules: checks that run beside each other, and figures alone, after what they compile."""

    checks: tuple[str, ...]
    figures: tuple[str, ...] = ()

    @property
    def stages(self) -> tuple[list[str], list[str]]:
        """Full names of what runs beside each other, and of what runs alone."""
        ahead = ["benchmarks.gpu.figures.ahead"] if self.figures else []
        beside = [f"benchmarks.gpu.checks.{name}" for name in self.checks] + ahead
        return beside, [f"benchmarks.gpu.figures.{name}" for name in self.figures]


PARTS = {
    "1": Part(("kernels", "matchers", "updates", "scaling", "ranks", "loading", "marked_tests")),
    "2": Part(("programs", "compiled", "networks", "scores", "exported")),
    "3": Part((), ("steps", "matches", "heads", "scores")),
}
TABLE = "table"


def main() -> int:
    """Run a part and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--part", choices=[*PARTS, TABLE], default="1", help="table: nothing is run")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: a rehearsal on small inputs")
    parser.add_argument("--out", type=Path, default=Path("experiments/gpu"), help="where the JSON goes")
    parser.add_argument("--only", default="", help="checks whose name holds this word (all)")
    parser.add_argument("--jobs", type=int, help="checks at a time (half the cores, 2 to 8); figures are alone")
    parser.add_argument("--seconds", type=float, default=SECONDS, help=f"for the whole part ({SECONDS:g})")
    args = parser.parse_args()
    if args.part == TABLE:
        print(table.of_all(args.out))
        return 0
    try:
        torch = importlib.import_module("torch")
    except ImportError as error:
        print(f"make gpu: {error}; PYTHON=... names an interpreter that has PyTorch", file=sys.stderr)
        return 2
    if args.device == "cuda" and not torch.cuda.is_available():
        print("make gpu: PyTorch finds no CUDA device; DEVICE=cpu rehearses on the CPU", file=sys.stderr)
        return 2
    try:
        args.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        print(f"make gpu: --out: {error}", file=sys.stderr)
        return 2
    from benchmarks.gpu.runner import Plan, run_part  # torch is there

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: what runs is ended too
    # Importing torch for the first time takes long, and is a part of the part.
    jobs = args.jobs or max(2, min(8, usable_cores() // 2))
    plan = Plan(args.device, args.only, jobs, args.seconds - (time.monotonic() - START))
    code = run_part(plan, *PARTS[args.part].stages, args.out / table.NAME.format(args.part))
    print(f"\n{table.of_all(args.out)}")
    return code


if __name__ == "__main__":
    CODE = main()
    sys.stdout.flush()
    os._exit(CODE)  # a process that a driver holds cannot be killed, and would be waited for
