"""Run the benchmarks one after the other, each in a process of its own, and rewrite the documentation's tables.

`python -m benchmarks` runs all, `python -m benchmarks qaconv step` some of them. One alone has options of its own:
`python -m benchmarks qaconv --help`.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from itertools import takewhile

from benchmarks.harness.docs import update_docs
from benchmarks.harness.program import PROGRAMS, RESULTS, add_common_arguments, read, run
from options.command import FlagParser, as_typed, launch
from system import ROOT

PROGRAM = "python -m benchmarks"
# Pages of their own have the tables of the others.
BENCHMARKS = tuple(name for name, program in PROGRAMS.items() if program.output == RESULTS)
FORWARDED = ("repeats", "threads", "scale")


def main(argv: Sequence[str] | None = None, prog: str = PROGRAM) -> int:
    """Run the chosen benchmarks; return 1 if one of them failed."""
    words = sys.argv[1:] if argv is None else [*argv]
    names = [*takewhile(lambda word: not word.startswith(("-", "@")), words)]
    if len(names) == 1 and names[0] in PROGRAMS:
        args = read(names[0], words[1:], prog)
        from engine import runs

        runs.start_log(is_main_process=False)  # warnings only
        run(names[0], args)
    else:
        parser = FlagParser(prog, __doc__ or "", f"{as_typed(prog)} qaconv step --scale 0.1")
        parser.add_argument("names", nargs="*", metavar="name", help=f"of {', '.join(BENCHMARKS)} (all)")
        add_common_arguments(parser)
        args = parser.parse_args(words)
        unknown = [name for name in args.names if name not in PROGRAMS]
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
    return subprocess.run([sys.executable, "-m", "benchmarks", name, *options], cwd=ROOT).returncode == 0


if __name__ == "__main__":
    launch(PROGRAM, main)
