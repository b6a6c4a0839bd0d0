"""Run the benchmarks one after the other, each in a process of its own, and rewrite the documentation's tables.

`python -m benchmarks` runs all, `python -m benchmarks qaconv step` some of them. Each can be run alone, with options of
its own: `python -m benchmarks.qaconv --help`.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.harness.docs import update_docs
from benchmarks.harness.program import add_common_arguments
from options.command import FlagParser, as_typed, launch

PROGRAM = "python -m benchmarks"
ROOT = Path(__file__).resolve().parent.parent
BENCHMARKS = ("qaconv", "step", "head", "validation", "gallery", "data", "sampler", "synthetic", "help", "threads")
FORWARDED = ("repeats", "threads", "scale")


def get_parser(prog: str = PROGRAM) -> FlagParser:
    """Return the command line's parser."""
    parser = FlagParser(prog, __doc__ or "", f"{as_typed(prog)} qaconv step --scale 0.1")
    parser.add_argument("names", nargs="*", metavar="name", help=f"of {', '.join(BENCHMARKS)} (all)")
    add_common_arguments(parser)
    parser.add_argument("--update-docs", action="store_true", help="rewrite the tables of the documentation")
    parser.add_argument("--docs", type=Path, default=ROOT / "docs/benchmarks.md", help="page with the tables")
    return parser


def main(argv: Sequence[str] | None = None, prog: str = PROGRAM) -> int:
    """Run the chosen benchmarks; return 1 if one of them failed."""
    parser = get_parser(prog)
    args = parser.parse_args(argv)
    unknown = [name for name in args.names if name not in BENCHMARKS]
    if unknown:
        parser.error(f"unknown benchmark {', '.join(unknown)}; choose from {', '.join(BENCHMARKS)}")
    options = [f"--{name}={getattr(args, name)}" for name in FORWARDED if getattr(args, name) is not None]
    options.append(f"--output={args.output.absolute()}")
    failed = [name for name in args.names or BENCHMARKS if not _succeeds(name, options)]
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
        return 1
    if args.update_docs:
        print(f"\n{args.docs}: {', '.join(update_docs(args.docs, args.output))}")
    return 0


def _succeeds(name: str, options: list[str]) -> bool:
    print(f"\n== {name}", flush=True)
    return subprocess.run([sys.executable, "-m", f"benchmarks.{name}", *options], cwd=ROOT).returncode == 0


if __name__ == "__main__":
    launch(PROGRAM, main)
