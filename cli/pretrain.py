"""The program that pretrains: the command line, signals and the launch; cli/pretraining does the work."""

from __future__ import annotations

from collections.abc import Sequence

from cli import launching
from config import PretrainingConfig, explicit_flags, get_pretraining_args
from engine.signals import StopSignals
from options.command import user_errors


def main(argv: Sequence[str], prog: str = "main.py pretrain") -> int:
    """Run the program with the words of its command line and return the exit code."""
    config = get_pretraining_args(argv, prog)
    is_main = launching.begin(prog)
    from cli.pretraining.run import prepare, run

    with StopSignals(config.requeue, is_main) as stop:
        with user_errors(prog):
            session = prepare(config, explicit_flags(argv, PretrainingConfig), argv, stop)
        return run(session)
