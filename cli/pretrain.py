"""The program that pretrains: the command line, signals and the launch; cli/pretraining does the work."""

from __future__ import annotations

from collections.abc import Sequence

from config import PretrainingConfig, explicit_flags, get_pretraining_args
from engine.signals import StopSignals, stop_with_parent, watch_rank_0
from options.command import user_errors
from system.cores import bound_waiting
from system.launch import find_launch, is_main_process


def main(argv: Sequence[str], prog: str = "main.py pretrain") -> int:
    """Run the program with the words of its command line and return the exit code."""
    config = get_pretraining_args(argv, prog)
    with user_errors(prog):
        launched, is_main = find_launch(), is_main_process()
    if launched is None:
        watch_rank_0(is_main)
    elif launched.launcher == "torchrun":
        stop_with_parent(launched.launcher)
    bound_waiting()  # is read when torch is imported, and that only after the options are known to be right
    from cli.pretraining.run import prepare, run

    with StopSignals(config.requeue, is_main) as stop:
        with user_errors(prog):
            session = prepare(config, explicit_flags(argv, PretrainingConfig), argv, stop)
        return run(session)
