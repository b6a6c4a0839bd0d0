"""Compare face detectors on labeled photographs: `python main.py detect evaluate --help`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cli.detection.program import DetectOptions, check_sizes
from options.command import FlagParser, as_typed, at_home, interruptible, user_errors
from options.flags import Options, add_flags, flag, flag_like
from system.cores import bound_waiting
from system.files import naming, write_text
from system.terminal import show

if TYPE_CHECKING:  # OpenCV is imported only after the options are known to be right
    from datasets.detection.photos import LabeledPhotos
    from datasets.photos.detection import Detector
    from evaluation.detection.summary import DetectorFaces, LabeledFaces
    from evaluation.report.detection.photographs import DrawnPhoto

RESULTS, PAGE, KEPT = "results.json", "report.html", "detections"
_NAMED = re.compile(r"([A-Za-z0-9][A-Za-z0-9 _.-]{0,39})=(.+)")
_PREDICTED = 0.5  # least score in use of detections that come as files
_DESCRIPTION = """Compare face detectors on labeled photographs: average precision as COCO has it, recall by size, by
what hides a face and by how much of it, mistakes a photograph, errors of the five points, time; with intervals, and of
WIDER FACE its own average precision. Without --photos the held-out synthetic scenes are looked at: figures on them say
nothing about real faces. results.json, report.html and what each detector found go into --output_dir; interrupted, the
same command goes on, and a second look costs nothing. Exit code: 0 done, 2 a mistake in the input, 130 interrupted."""


@dataclass(frozen=True, kw_only=True)
class EvaluateDetectorsOptions(Options):
    """Evaluation of detectors."""

    detectors: tuple[str, ...] = flag(
        ("mtcnn",), "what to compare: mtcnn; yunet, once `fetch yunet` got it; a file of it; a checkpoint or weights of"
        " a detector; a folder of detections in WIDER FACE's form, <event>/<image>.txt. NAME=... names a column"
    )  # fmt: skip
    photos: str | None = flag(None, "folder that the labels' names begin at")
    labels: str | None = flag(None, "faces in them: label.txt, labelv2.txt, wider_face_*_bbx_gt.txt or COCO's .json")
    wider: str | None = flag(None, "folder of WIDER FACE's wider_*_val.mat, for easy, medium and hard")
    output_dir: str = flag("experiments/detectors", "folder of the results")
    max_side: int = flag(
        0, "longer side in pixels to which larger photographs are shrunk; 0: none", within="[0, 65536]"
    )
    scales: tuple[float, ...] = flag_like(DetectOptions, "scales")
    mirror: bool = flag_like(DetectOptions, "mirror")
    threshold: float | None = flag(
        None, f"least score of a detection in use; each detector's usual one, {_PREDICTED} of files", within="[0, 1]"
    )
    least_score: float = flag(0.02, "least score of a detection for average precision", within="(0, 1]")
    max_detections: int = flag(
        100, "the surest detections of a photograph that count for average precision; crowds need more",
        within="[1, inf)",
    )  # fmt: skip
    num_resamples: int = flag(1000, "resamples of the photographs for intervals", within="[1, 100000]")
    worst: int = flag(6, "photographs of each detector that are drawn, those with most errors", within="[0, 100]")
    seed: int = flag(0, "of the resamples", within="[0, inf)")


def main(argv: Sequence[str] | None = None, prog: str = "main.py detect evaluate") -> int:
    """Run the program with the words of its command line and return the exit code."""
    parser = FlagParser(prog, _DESCRIPTION, f"{as_typed(prog)} --detectors mtcnn,yunet --max_side 640")
    add_flags(parser, EvaluateDetectorsOptions)
    with user_errors(prog):
        options = EvaluateDetectorsOptions(**parser.read(argv))
        if (options.photos is None) != (options.labels is None):
            raise ValueError("--photos and --labels belong together: a folder, and the faces in its photographs")
        _check(options)
        if options.wider and not options.photos:
            raise ValueError("--wider is of WIDER FACE's photographs: give --photos and --labels too")
        bound_waiting()  # is read when torch is imported
        folder = Path(options.output_dir)
        with naming(folder), interruptible(prog):
            results = evaluate(options, folder)
    from evaluation.report.detection.text import detection_table

    show(f"{detection_table(results)}\n\nresults and {PAGE} are in {folder}")
    return 0


def _check(options: EvaluateDetectorsOptions) -> None:
    check_sizes(options.max_side, options.scales)
    if options.threshold is not None and options.threshold < options.least_score:
        raise ValueError(f"--threshold {options.threshold:g} is below --least_score {options.least_score:g}")


def evaluate(options: EvaluateDetectorsOptions, folder: Path) -> dict[str, Any]:
    """Run the detectors, write results and page into a folder, and return the results.

    Raises:
        ValueError: if photographs, labels, detectors or detections that are there are not what they should be.
        OSError: if a file cannot be read or written.
    """
    from datasets.cache_folder import alone
    from evaluation.detection.summary import compare_detectors
    from evaluation.report.detection.page import build_detection_page

    words = _named(options.detectors)
    photos = _photos(options)
    truth = _wider_truth(options, photos)  # a mistake is said before hours of work
    (folder / KEPT).mkdir(parents=True, exist_ok=True)
    with alone(folder / KEPT):
        found, facts, seconds = _detect(words, photos, options, folder / KEPT)
    faces = [_labeled(photos, index) for index in range(len(photos))]
    results = compare_detectors(faces, found, options.max_detections, options.num_resamples, options.seed)
    for name, median in seconds.items():
        first = next(iter(seconds.values()))
        results["detectors"][name] |= {"seconds": median, "seconds_ratio": median / first if first else None}
    if truth is not None:
        results["wider"] = {name: _wider(truth, photos, one) for name, one in found.items()}
    worst = {name: _worst(photos, faces, one, options.worst) for name, one in found.items()}
    results["worst"] = {name: [photo.name for photo in drawn] for name, drawn in worst.items()}
    results["protocol"] = facts | {"intervals": results["intervals"]}
    _write(folder, results, build_detection_page(results, worst))
    return results


def _write(folder: Path, results: Mapping[str, Any], page: str) -> None:
    from engine import runs

    runs.write_json(folder / RESULTS, results)
    write_text(folder / PAGE, page)


def _named(words: Sequence[str]) -> dict[str, str]:
    """Return what each column of the tables is of."""
    named: dict[str, str] = {}
    for word in words:
        match = None if Path(word).exists() else _NAMED.fullmatch(word)
        name, value = (match[1], at_home(match[2])) if match else (Path(word).name, word)
        if name in named:
            raise ValueError(f"--detectors: {name!r} comes twice; name them, as in first={word}")
        named[name] = value
    if not named:
        raise ValueError("--detectors: none is named")
    return named


def _photos(options: EvaluateDetectorsOptions) -> LabeledPhotos:
    from datasets.detection.photos import LabeledPhotos, read_labels
    from datasets.synthetic.scene_set import prepare_scenes

    if options.photos is None or options.labels is None:
        root = prepare_scenes() / "val"
        return LabeledPhotos(root, read_labels(root / "faces.json"))
    labels = read_labels(Path(options.labels))
    photos = LabeledPhotos(Path(options.photos), labels)
    missing = [photo.name for photo in labels.photos if not (photos.root / photo.name).is_file()]
    if missing:
        raise ValueError(
            f"{options.labels}: {len(missing)} of its photographs are not in {options.photos}; the first: {missing[0]}"
        )
    return photos


def _detect(
    words: Mapping[str, str], photos: LabeledPhotos, options: EvaluateDetectorsOptions, folder: Path
) -> tuple[dict[str, DetectorFaces], dict[str, str], dict[str, float]]:
    """Return by detector what it found, facts for the page, and by detector the seconds of a median photograph."""
    import numpy as np

    from cli.detection.kept_detections import as_faces, detect_all, read_folder
    from evaluation.detection.summary import IOU
    from models.detectors.sized import TestSizes

    sizes = TestSizes(options.max_side, options.scales, options.mirror)
    names = [photos.labels(index).name for index in range(len(photos))]
    given = {name: Path(word) for name, word in words.items() if Path(word).is_dir()}
    opened = {name: _open(name, word) for name, word in words.items() if name not in given}
    seen = detect_all(photos, opened, sizes, options.least_score, folder)
    found, facts = {}, {"test size": sizes.describe() if opened else "not known, detections come as files"}
    for name in words:
        if name in given:
            at = _PREDICTED if options.threshold is None else options.threshold
            found[name], facts[name] = read_folder(given[name], names, at), f"detections in {given[name]}"
        else:
            found[name], facts[name] = as_faces(seen[name], options.threshold), opened[name].name
    usual = f"the usual one of each detector, {_PREDICTED} of files"
    facts |= {
        "photographs": "held-out synthetic scenes" if options.photos is None else f"{options.photos}, {options.labels}",
        "average precision": f"scores from {options.least_score:g}, {options.max_detections} detections a photograph",
        "score in use": usual if options.threshold is None else f"{options.threshold:g}",
        "overlap of recall, mistakes and points": str(IOU),
    }
    return found, facts, {name: float(np.median([one.seconds for one in rows])) for name, rows in seen.items()}


def _open(name: str, word: str) -> Detector:
    from datasets.photos.given_points import GivenPoints
    from models.detectors import open_detector

    detector = open_detector(word)
    if isinstance(detector, GivenPoints):
        raise ValueError(f"--detectors {name}: {word} is a table of points, no detector")
    return detector


def _labeled(photos: LabeledPhotos, index: int) -> LabeledFaces:
    import numpy as np

    from evaluation import Truth
    from evaluation.detection.summary import LabeledFaces

    photo = photos.labels(index)
    faces = photo.faces
    truth = Truth(faces.boxes.astype(np.float64), faces.ignored)
    return LabeledFaces(truth, faces.points.astype(np.float64), faces.hidden.astype(np.float64), photo.occluders)


def _wider_truth(options: EvaluateDetectorsOptions, photos: LabeledPhotos) -> Any:
    if options.wider is None:
        return None
    from evaluation import read_wider_truth

    truth = read_wider_truth(Path(options.wider))
    known = {str(Path(photos.labels(index).name).with_suffix("")) for index in range(len(photos))}
    if missing := [name for name in truth.names if name not in known]:
        raise ValueError(f"--wider {options.wider}: {options.labels} lacks {len(missing)} of its images: {missing[0]}")
    return truth


def _wider(truth: Any, photos: LabeledPhotos, found: DetectorFaces) -> dict[str, float]:
    """Return the average precision of each subset by WIDER FACE's rules."""
    import numpy as np

    from evaluation import wider_curves

    rows = {}
    for index, one in enumerate(found.every):
        boxes, scores = one.found
        sides = np.column_stack([boxes[:, :2], boxes[:, 2:] - boxes[:, :2], scores])
        rows[str(Path(photos.labels(index).name).with_suffix(""))] = sides
    curves = wider_curves(truth, [rows[name] for name in truth.names])
    return {subset: curve.ap for subset, curve in curves.items()}


def _worst(photos: LabeledPhotos, faces: Sequence[LabeledFaces], found: DetectorFaces, number: int) -> list[DrawnPhoto]:
    """Return the photographs with most faces missed and mistakes, at least one; of two alike the first."""
    from cli.detection.kept_detections import small_picture
    from evaluation.detection.summary import photo_errors
    from evaluation.report.detection.photographs import DrawnPhoto

    errors = [sum(int(kind.sum()) for kind in photo_errors(*pair)) for pair in zip(faces, found.used, strict=True)]
    ranked = sorted(range(len(errors)), key=lambda index: -errors[index])
    drawn = []
    for index in ranked[:number]:
        if errors[index]:
            path = photos.root / photos.labels(index).name
            picture, size = small_picture(path)
            drawn.append(DrawnPhoto(photos.labels(index).name, picture, size, faces[index], found.used[index]))
    return drawn
