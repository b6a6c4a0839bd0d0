"""Train, validate, test and resume from the command line: `python main.py --help`."""

from __future__ import annotations

import sys

from config import explicit_flags, get_args
from engine.signals import StopSignals, stop_with_parent, watch_rank_0
from options.command import launch, user_errors
from system.cores import bound_waiting
from system.launch import find_launch, is_main_process


def main(argv: list[str] | None = None) -> int:
    """Run the program with `argv` (default: the command line's) and return the exit code."""
    argv = sys.argv[1:] if argv is None else argv
    config = get_args(argv)
    with user_errors("main.py"):
        launched, is_main = find_launch(), is_main_process()
    if launched is None:
        watch_rank_0(is_main)
    elif launched.launcher == "torchrun":
        stop_with_parent(launched.launcher)
    bound_waiting()  # is read when torch is imported, and that only after the options are known to be right
    from cli.training import prepare, run

    with StopSignals(config.requeue, is_main) as stop:
        with user_errors("main.py"):
            session = prepare(config, explicit_flags(argv), argv, stop)
        return run(session)


if __name__ == "__main__":
    launch("main.py", main)
