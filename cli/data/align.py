"""Align photographs: `python main.py align --help`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cli.two_paths import read_two_paths
from options.command import FlagParser, as_typed
from options.flags import Options, flag
from options.names import DETECTOR_HELP
from system.terminal import show

if TYPE_CHECKING:  # OpenCV is imported only after the options are known to be right
    from datasets.photos.to_crops import AlignOutcome

DETECTOR = "mtcnn"  # as of models.detectors; a test compares them
FALLBACKS = ("center",)

_DESCRIPTION = """Find the face in every photograph and bring its eyes, nose and mouth to the places where recognizers
expect them. IN is a folder, with folders in it or not, a text file with a path a line, a record file, or one
photograph; OUT is a folder that gets a crop for each, named as the photograph, alignment.csv with a row for every
photograph, and alignment.json. OUT.doubtful.png shows what should be looked at. Of several faces the large one near the
center is taken. Interrupted, the same command goes on. Exit code: 0 all are aligned, 1 some are not, 2 a mistake in the
input, 130 interrupted."""


@dataclass(frozen=True, kw_only=True)
class AlignOptions(Options):
    """Alignment."""

    detector: str = flag(DETECTOR, DETECTOR_HELP)
    size: int = flag(112, "side of the crops, a multiple of 112 or 128", within="[112, 1024]")
    fallback: str | None = flag(None, "what to do without a face: cut out the middle; else no crop", choices=FALLBACKS)
    jobs: int = flag(1, "processes; the result does not depend on them", within="[1, inf)")
    overwrite: bool = flag(False, "replace a result of this program that is there")


def main(argv: Sequence[str] | None = None, prog: str = "main.py align") -> int:
    """Run the program with the words of its command line and return the exit code."""
    parser = FlagParser(prog, _DESCRIPTION, f"{as_typed(prog)} my_photographs my_faces --jobs 2")
    parser.usage = f"{prog} IN OUT [--flag value ...]"
    paths = {"IN": "the photographs", "OUT": "folder for the crops"}
    with read_two_paths(parser, argv, AlignOptions, paths) as (source, output, options):
        outcome = _align(source, output, options)
    from datasets.photos.to_crops import summary

    show("\n".join(summary(outcome)))
    show(f"crops and alignment.csv are in {output}")
    if outcome.sheet is not None:
        show(f"doubtful photographs are shown in {outcome.sheet}")
    return int(outcome.num_failed > 0)


def _align(source: Path, output: Path, options: AlignOptions) -> AlignOutcome:
    from datasets.photos.to_crops import AlignJob, align_photographs
    from models.detectors import DetectorChoice
    from transforms import template_points

    template_points(options.size)  # refuses a size without one
    choice = DetectorChoice(options.detector)
    return align_photographs(
        AlignJob(source, output, choice, options.size, options.fallback is not None, options.jobs, options.overwrite)
    )
