"""The program that evaluates a checkpoint: its command line; what it does is in folder_ and search_evaluation.py."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from config import get_eval_args
from options.command import user_errors
from system.cores import bound_waiting


def main(argv: Sequence[str], prog: str = "main_eval.py") -> int:
    """Run the program with the words of its command line and return the exit code."""
    options = get_eval_args(argv, prog)
    bound_waiting()  # is read when torch is imported
    from cli.search_evaluation import runner_of  # torch is imported only after the options are known to be right
    from engine import runs

    with user_errors(prog), runs.leaving_nothing(Path(options.output_dir)):
        return runner_of(options)(options)
