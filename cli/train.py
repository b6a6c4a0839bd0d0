"""The program that trains: its command line; cli/training.py does the work."""

from __future__ import annotations

from collections.abc import Sequence

from cli import launching
from cli.programs import listing
from config import explicit_flags, get_args


def main(argv: Sequence[str], prog: str = "main.py") -> int:
    """Run the program with the words of its command line and return the exit code."""
    config = get_args(argv, prog, f"programs, each with a --help of its own:\n\n{listing()}")
    return launching.train(prog, "cli.training", config, explicit_flags(argv), argv)
