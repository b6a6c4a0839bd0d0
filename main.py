"""Train, validate, test and resume from the command line: `python main.py --help`."""

from __future__ import annotations

import sys

from command import launch, user_errors
from config import explicit_flags, get_args
from cores import bound_waiting
from ranks import find_launch, is_main_process


def main(argv: list[str] | None = None) -> int:
    """Run the program with `argv` (default: the command line's) and return the exit code."""
    argv = sys.argv[1:] if argv is None else argv
    config = get_args(argv)
    bound_waiting()  # is read when torch is imported, and that only after the options are known to be right
    from stopping import StopSignals, stop_with_parent
    from training import prepare, run

    with user_errors("main.py"):
        launch, is_main = find_launch(), is_main_process()
    with StopSignals(config.requeue, is_main) as stop:
        if launch is not None and launch.launcher == "torchrun":
            stop_with_parent(launch.launcher)
        with user_errors("main.py"):
            session = prepare(config, explicit_flags(argv), argv, stop)
        return run(session)


if __name__ == "__main__":
    launch("main.py", main)
