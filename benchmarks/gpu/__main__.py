"""Checks and figures of a GPU in three parts of at most 4 minutes: `make gpu PART=1`, nothing to install.

Part 1 checks the kernels, the matcher and the updates, part 2 networks, programs and marked tests, part 3 measures.
What this machine lacks is reported as "not run". OUT/gpu_part_N.json is replaced after every check, so what was done
stays when the run is cut off; each part ends with the table of all parts, which `table` alone prints again. The exit
code is 0 if everything that ran passed and something ran.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import time
from pathlib import Path
from typing import NamedTuple

from benchmarks.gpu import table

START = time.monotonic()
SECONDS = 225.0  # of a part; what has not begun by then is not run


class Part(NamedTuple):
    """Modules with checks: the first run beside each other, the last ones alone, since they measure time."""

    beside: tuple[str, ...]
    alone: tuple[str, ...] = ()


PARTS = {
    "1": Part(("kernels", "matchers", "updates", "scaling", "ranks", "loading")),
    "2": Part(("marked_tests", "programs", "networks", "scores", "compiled", "exported")),
    "3": Part((), ("figures.matches", "figures.steps", "figures.heads", "figures.scores")),
}
TABLE = "table"


def main() -> int:
    """Run a part and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--part", choices=[*PARTS, TABLE], default="1", help="table: nothing is run")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: a rehearsal on small inputs")
    parser.add_argument("--out", type=Path, default=Path("experiments/gpu"), help="where the JSON goes")
    parser.add_argument("--only", default="", help="checks whose name holds this word (all)")
    parser.add_argument("--jobs", type=int, default=4, help="checks at a time; figures are measured alone (4)")
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
    from benchmarks.gpu.runner import Plan, run_part  # torch is there

    stages = [[f"benchmarks.gpu.{name}" for name in names] for names in PARTS[args.part]]
    # Importing torch for the first time takes long, and is a part of the part.
    plan = Plan(args.device, args.only, args.jobs, args.seconds - (time.monotonic() - START))
    code = run_part(plan, stages[0], stages[1], args.out / table.NAME.format(args.part))
    print(f"\n{table.of_all(args.out)}")
    return code


if __name__ == "__main__":
    sys.exit(main())
