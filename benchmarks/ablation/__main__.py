"""Score the finished runs of the ablation and write its tables; `make ablation` trains them before.

Scores are kept beside each run's checkpoint.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from options.command import FlagParser, launch, user_errors
from system import ROOT

PROGRAM = "python -m benchmarks.ablation"


def main(argv: Sequence[str] | None = None) -> int:
    """Score what is not scored yet, then write the tables; return the exit code."""
    parser = FlagParser(PROGRAM, __doc__ or "", f"{PROGRAM} --people 400")
    parser.add_argument("--people", type=int, default=400, help="people to test on (%(default)s)")
    parser.add_argument("--dev-people", type=int, default=200, help="people to fit on (%(default)s)")
    parser.add_argument("--draws", type=int, default=5, help="of occluders (%(default)s)")
    parser.add_argument("--runs", type=Path, default=Path("experiments"), help="folder of all runs (%(default)s)")
    parser.add_argument("--docs", type=Path, default=ROOT / "docs/ablation.md", help="page whose tables are rewritten")
    parser.add_argument("--picture", type=Path, default=ROOT / "docs/visibility.png", help="picture (%(default)s)")
    args = parser.parse_args(argv)
    from benchmarks.ablation.report import write_tables

    with user_errors(PROGRAM):
        people = {"test": args.people, "dev": args.dev_people}
        write_tables(args.docs, args.picture, args.runs, people, args.draws)
    return 0


if __name__ == "__main__":
    launch(PROGRAM, main)
