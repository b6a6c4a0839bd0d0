"""What a trained detector has learned: beside itself untrained, MTCNN and, once it is fetched, YuNet.

All find faces in the held-out synthetic scenes, which the last two have never seen the like of, and the first has.
Tables, page and what was found lie in the run's folder; a second look costs nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from options.command import FlagParser, launch, user_errors
from system.terminal import show

PROGRAM = "python -m benchmarks.detection"
UNTRAINED = "untrained.ckpt"
YUNET_MISSING = "YuNet is not compared: `main.py fetch yunet` gets it"


def main(argv: Sequence[str] | None = None) -> int:
    """Do what the words say and return the exit code."""
    parser = FlagParser(PROGRAM, __doc__ or "", f"{PROGRAM} --demo detect-demo")
    parser.add_argument(
        "--demo", metavar="PREFIX", required=True, help="of the run; its newest that was finished counts"
    )
    parser.add_argument("--runs", type=Path, default=Path("experiments"), help="folder of all runs (%(default)s)")
    parser.add_argument("--num_resamples", type=int, default=1000, help="of the photographs (%(default)s)")
    args = parser.parse_args(argv)
    with user_errors(PROGRAM):
        folder, results = compare(args.runs, args.demo, args.num_resamples)
    from evaluation.report.detection.text import detection_table
    from models.detectors import fetched_file

    show(f"{detection_table(results)}\n\ncomparison: {folder}")
    if not fetched_file().is_file():
        show(YUNET_MISSING)
    return 0


def compare(root: Path, prefix: str, num_resamples: int) -> tuple[Path, dict[str, Any]]:
    """Compare the newest finished run of a prefix with the others; return the folder of the page, and the results.

    Raises:
        ValueError: if no such run has ended, or a detector cannot be opened.
    """
    from benchmarks.studies.finished import Run
    from cli.detection.evaluate import EvaluateDetectorsOptions, evaluate
    from models.detectors import fetched_file

    run = Run(root, prefix, ()).folder
    if run is None:
        raise ValueError(f"--runs {root}: no finished run {prefix}_*; make detect-demo trains it")
    checkpoint = run / "last.ckpt"
    detectors = [f"trained={checkpoint}", f"untrained={write_untrained(checkpoint)}"]
    if fetched_file().is_file():
        detectors.append(f"YuNet={fetched_file()}")
    options = EvaluateDetectorsOptions(
        detectors=(*detectors, "MTCNN=mtcnn"), output_dir=str(run / "comparison"), num_resamples=num_resamples
    )
    return run / "comparison", evaluate(options, run / "comparison")


def write_untrained(checkpoint: Path) -> Path:
    """Write the network of a checkpoint as the run's seed draws it, beside it, and return the file.

    Raises:
        ValueError: if the checkpoint is of no detector's training.
    """
    import torch

    import nets
    from models.loading import read_content
    from system.files import atomic_write

    content = read_content(checkpoint)
    saved = content.get("hyper_parameters") if isinstance(content, dict) else None
    config = saved.get("config", {}) if isinstance(saved, dict) else {}
    if not {"arch", "seed"} <= config.keys() or config["arch"] not in nets.DETECTORS:
        raise ValueError(f"{checkpoint}: no checkpoint of a detector's training")
    torch.manual_seed(config["seed"])
    drawn = nets.build_detector(config["arch"]).state_dict()
    path = checkpoint.with_name(UNTRAINED)
    with atomic_write(path, "wb") as stream:
        torch.save({"state_dict": drawn, "hyper_parameters": saved}, stream)
    return path


if __name__ == "__main__":
    launch(PROGRAM, main)
