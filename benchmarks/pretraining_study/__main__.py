"""What a pretraining is worth on people that no training has seen.

Without a switch: score the finished runs of the study and rewrite the tables of its page; `make pretrain-study` trains
them before. Scores are kept beside each run's checkpoint.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from options.command import FlagParser, launch, user_errors
from system import ROOT
from system.terminal import show

PROGRAM = "python -m benchmarks.pretraining_study"


def main(argv: Sequence[str] | None = None) -> int:
    """Do what the words say and return the exit code."""
    parser = FlagParser(PROGRAM, __doc__ or "", f"{PROGRAM} --demo pretrain-demo")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--demo", metavar="PREFIX", help="compare the newest finished run of this prefix with baselines")
    what.add_argument("--list", choices=("pretraining", "fine-tuning"), help="print the commands still to be run")
    parser.add_argument("--folds", type=int, default=10, help="of each set to measure on, 2 to 10 (%(default)s)")
    parser.add_argument("--runs", type=Path, default=Path("experiments"), help="folder of all runs (%(default)s)")
    parser.add_argument("--docs", type=Path, default=ROOT / "docs/pretraining.md", help="page whose tables are written")
    args = parser.parse_args(argv)
    with user_errors(PROGRAM):
        if args.list:
            from benchmarks.pretraining_study.variants import unfinished

            for command in unfinished(args.runs, args.list):
                show(command)
            return 0
        from benchmarks.pretraining_study.report import report_demo, write_study

        if args.demo:
            folder, text = report_demo(args.runs, args.demo, args.folds)
            show(f"{text}\n\ncomparison: {folder}")
        else:
            write_study(args.docs, args.runs, args.folds)
    return 0


if __name__ == "__main__":
    launch(PROGRAM, main)
