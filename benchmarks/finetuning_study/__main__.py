"""What fine-tuning on low-resolution faces, and training on several sets, are worth on people never trained on.

Without a switch: measure the finished runs of the study and rewrite the tables of its pages; `make finetune-study`
trains them before. Embeddings are kept beside each run's checkpoint.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from options.command import FlagParser, launch, user_errors
from system import ROOT
from system.terminal import show

PROGRAM = "python -m benchmarks.finetuning_study"
PARTS = ("real", "network", "synthetic", "demo", "mixture")


def main(argv: Sequence[str] | None = None) -> int:
    """Do what the words say and return the exit code."""
    parser = FlagParser(PROGRAM, __doc__ or "", f"{PROGRAM} --faces aligned_faces --weights edgeface_xxs.pt")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--demo", action="store_true", help="compare the demo's arm with its baselines")
    what.add_argument("--list", choices=PARTS, help="print the commands of a part that are still to be run")
    parser.add_argument(
        "--faces", type=Path, help="aligned crops of real people, a folder each; a quarter is tested on"
    )
    parser.add_argument(
        "--weights", type=Path, help="of EdgeFace-XXS, RGB, which is tuned on these; else drawn faces alone"
    )
    parser.add_argument("--runs", type=Path, default=Path("experiments"), help="folder of all runs (%(default)s)")
    parser.add_argument("--docs", type=Path, default=ROOT / "docs/finetuning.md", help="page whose tables are written")
    parser.add_argument(
        "--mixtures", type=Path, default=ROOT / "docs/mixtures.md", help="the same of the mixture study"
    )
    args = parser.parse_args(argv)
    with user_errors(PROGRAM):
        if (args.faces is None) != (args.weights is None):
            raise ValueError("--faces and --weights belong together: give both or neither")
        from benchmarks.finetuning_study.variants import Real, unfinished

        real = None if args.faces is None else Real(args.faces.resolve(), args.weights.resolve())
        if args.list:
            for command in unfinished(args.runs, args.list, real):
                show(command)
            return 0
        from benchmarks.finetuning_study.report import report_demo, write_study

        if args.demo:
            folder, text = report_demo(args.runs)
            show(f"{text}\n\ncomparison: {folder}")
        else:
            write_study(args.docs, args.mixtures, args.runs, real)
    return 0


if __name__ == "__main__":
    launch(PROGRAM, main)
