"""Train, validate, test and resume from the command line: `python main.py --help`."""

from __future__ import annotations

import sys

from config import explicit_flags, get_args
from flags import user_errors


def main(argv: list[str] | None = None) -> int:
    """Run the program with `argv` (default: the command line's) and return the exit code."""
    argv = sys.argv[1:] if argv is None else argv
    config = get_args(argv)
    # torch is imported only after the options are known to be right
    from stopping import StopSignals
    from trainer import is_main_process
    from training import prepare, run

    with StopSignals(config.requeue, is_main_process()) as stop:
        with user_errors("main.py"):
            session = prepare(config, explicit_flags(argv), argv, stop)
        return run(session)


if __name__ == "__main__":
    sys.exit(main())
