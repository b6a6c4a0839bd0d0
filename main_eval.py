"""Evaluate a checkpoint on a folder of identities: `python main_eval.py --help`."""

from __future__ import annotations

from config import get_eval_args
from options.command import launch, user_errors
from system.cores import bound_waiting


def main(argv: list[str] | None = None) -> int:
    """Run the program with `argv` (default: the command line's) and return the exit code."""
    options = get_eval_args(argv)
    bound_waiting()  # is read when torch is imported
    from cli.folder_evaluation import run

    with user_errors("main_eval.py"):
        return run(options)


if __name__ == "__main__":
    launch("main_eval.py", main)
