"""One door: `python main.py [program] [flags]`; without a program it trains a recognizer."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from cli.programs import door, run
from options.command import launch


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program that `argv` (default: the command line's) names and return the exit code."""
    return run(sys.argv[1:] if argv is None else argv)


def start() -> None:
    """Run as the console script `maskwise` does."""
    launch(door(), main)


if __name__ == "__main__":
    start()
