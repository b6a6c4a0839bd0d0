"""The program that pretrains: its command line; cli/pretraining says what is trained, cli/runs does the work."""

from __future__ import annotations

from collections.abc import Sequence

from cli import launching
from config import PretrainingConfig, explicit_flags, get_pretraining_args


def main(argv: Sequence[str], prog: str = "main.py pretrain") -> int:
    """Run the program with the words of its command line and return the exit code."""
    config = get_pretraining_args(argv, prog)
    return launching.train(prog, "cli.pretraining.run", config, explicit_flags(argv, PretrainingConfig), argv)
