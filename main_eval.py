"""`python main_eval.py`: the program `evaluate` under the name that others know it by."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from cli import evaluate
from options.command import launch

PROGRAM = "main_eval.py"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program with `argv` (default: the command line's) and return the exit code."""
    return evaluate.main(sys.argv[1:] if argv is None else argv, PROGRAM)


if __name__ == "__main__":
    launch(PROGRAM, main)
