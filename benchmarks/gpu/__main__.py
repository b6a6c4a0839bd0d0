"""Checks and figures of a GPU: `make gpu PART=1`, at most 4 minutes, nothing to install.

What this machine lacks is reported as "not run". OUT/gpu_part_N.json is replaced after every check, so what was done
stays when the run is cut off. The exit code is 0 if everything that ran passed and something ran.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path

# The first modules run beside each other, the last ones alone: they measure time.
PARTS = {1: (("kernels", "matchers", "updates", "scaling", "marked_tests"), ("figures",))}
SECONDS = 225.0  # of a part; what has not begun by then is not run


def main() -> int:
    """Run a part and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--part", type=int, choices=PARTS, default=1)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: a rehearsal on small inputs")
    parser.add_argument("--out", type=Path, default=Path("experiments/gpu"), help="where the JSON goes")
    parser.add_argument("--only", default="", help="checks whose name holds this word (all)")
    parser.add_argument("--jobs", type=int, default=4, help="checks at a time; figures are measured alone (4)")
    parser.add_argument("--seconds", type=float, default=SECONDS, help=f"for the whole part ({SECONDS:g})")
    args = parser.parse_args()
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
    return run_part(
        Plan(args.device, args.only, args.jobs, args.seconds), stages, args.out / f"gpu_part_{args.part}.json"
    )


if __name__ == "__main__":
    sys.exit(main())
