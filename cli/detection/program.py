"""Detect faces: `python main.py detect --help`; the words train and evaluate start programs of their own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from cli.two_paths import read_two_paths
from options.command import FlagParser, as_typed
from options.flags import Options, flag
from options.names import FINDER_HELP
from system.cores import bound_waiting
from system.terminal import show

if TYPE_CHECKING:  # OpenCV is imported only after the options are known to be right
    from datasets.photos.to_faces import Export, FindOutcome

DETECTOR = "mtcnn"  # as of models.detectors; a test compares them
COURSES = {"train": "cli.detection.train", "evaluate": "cli.detection.evaluate"}
LARGEST_SIDE = 8192  # of a view, as of the photographs that are read

_DESCRIPTION = """Find all faces in photographs. IN is a folder, with folders in it or not, a text file with a path a
line, a record file, or one photograph. OUT is a folder that gets faces.json and faces.csv, with every photograph and
the box, score and five points of each of its faces, and the photographs with boxes and points drawn in; without OUT it
is IN.faces. Interrupted, the same command goes on. Exit code: 0 done, 1 some photographs cannot be read, 2 a mistake
in the input, 130 interrupted.

{prog} train trains a detector, {prog} evaluate compares detectors on labeled photographs; each has a --help of its own.
A folder that is called so is meant by ./train."""


@dataclass(frozen=True, kw_only=True)
class DetectOptions(Options):
    """Detection."""

    detector: str = flag(DETECTOR, FINDER_HELP)
    threshold: float | None = flag(None, "least score of a face; else the detector's usual one", within="(0, 1)")
    overlap: float = flag(
        0.4, "intersection over union above which two faces are one, and the surer stays; mtcnn and yunet go by"
        " rules of their own before", within="[0, 1]",
    )  # fmt: skip
    max_side: int = flag(
        640,
        "longer side in pixels to which larger photographs are shrunk before they are looked at",
        within="[16, 8192]",
    )
    scales: tuple[float, ...] = flag(
        (1.0,),
        "times that size, one or several with commas between: what is found in any is joined",
        within="[0.1, 10]",
    )
    mirror: bool = flag(False, "look at each size mirrored too")
    draw: bool = flag(True, "write the photographs with boxes and points; --no_draw: not")
    coco: bool = flag(False, "also write coco.json, COCO's form with scores")
    wider: bool = flag(False, "also write wider/<photograph>.txt, the form that WIDER FACE's evaluation reads")
    jobs: int = flag(1, "processes; the result does not depend on them", within="[1, inf)")
    overwrite: bool = flag(False, "replace a result of this program that is there")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_sizes(self.max_side, self.scales)


def check_sizes(max_side: int, scales: Sequence[float]) -> None:
    """Refuse sizes to look at photographs in that are none, or too large; 0 for `max_side` sets no bound.

    Raises:
        ValueError: one line that names the flags.
    """
    if not scales:
        raise ValueError("--scales: give one at least")
    if max(scales) > 1 and not max_side:
        raise ValueError("--scales above 1 need --max_side: photographs may have any size")
    side = max_side * max(scales)
    if side > LARGEST_SIDE:
        raise ValueError(f"--max_side times the largest of --scales is {side:g} pixels, more than {LARGEST_SIDE}")


def main(argv: Sequence[str], prog: str = "main.py detect") -> int:
    """Run the program with the words of its command line and return the exit code."""
    if argv and argv[0] in COURSES:
        code: int = import_module(COURSES[argv[0]]).main(argv[1:], f"{prog} {argv[0]}")
        return code
    parser = FlagParser(prog, _DESCRIPTION.format(prog=prog), f"{as_typed(prog)} my_photographs my_faces --jobs 2")
    parser.usage = f"{prog} IN [OUT] [--flag value ...]  |  {prog} train ...  |  {prog} evaluate ..."
    paths = {"IN": "the photographs", "OUT": "folder for what is found"}
    with read_two_paths(parser, argv, DetectOptions, paths, beside=".faces") as (source, output, options):
        outcome = _detect(source, output, options)
    from datasets.photos.to_faces import summary

    show("\n".join(summary(outcome)))
    show(f"faces.json, faces.csv{' and the photographs drawn' if options.draw else ''} are in {output}")
    return int(outcome.counts["unreadable"] > 0)


def _detect(source: Path, output: Path, options: DetectOptions) -> FindOutcome:
    bound_waiting()  # is read when torch is imported
    from datasets.photos.to_faces import FindJob, find_faces
    from models.detectors.sized import SizedChoice, TestSizes

    sizes = TestSizes(options.max_side, options.scales, options.mirror, options.overlap)
    job = FindJob(
        source, output, SizedChoice(options.detector, sizes), sizes.facts(), options.threshold, options.draw,
        options.jobs, options.overwrite,
    )  # fmt: skip
    return find_faces(job, [*_exports(options)])


def _exports(options: DetectOptions) -> Iterator[Export]:
    """Yield what writes the other forms that are wanted."""
    from cli.detection import exports

    if options.coco:
        yield exports.COCO
    if options.wider:
        yield exports.WIDER
