"""The program that trains: the command line, signals and the launch; cli/training.py does the work."""

from __future__ import annotations

from collections.abc import Sequence

from cli import launching
from cli.programs import listing
from config import explicit_flags, get_args
from engine.signals import StopSignals
from options.command import user_errors


def main(argv: Sequence[str], prog: str = "main.py") -> int:
    """Run the program with the words of its command line and return the exit code."""
    config = get_args(argv, prog, f"programs, each with a --help of its own:\n\n{listing()}")
    is_main = launching.begin(prog)
    from cli.training import prepare, run

    with StopSignals(config.requeue, is_main) as stop:
        with user_errors(prog):
            session = prepare(config, explicit_flags(argv), argv, stop)
        return run(session)
