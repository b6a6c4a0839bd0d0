"""WIDER FACE's average precision, equal to the published evaluation to the last bit.

Reference: Yang, Luo, Loy, Tang, "WIDER FACE: A Face Detection Benchmark", CVPR 2016, arXiv:1511.06523; the rules are
those of the Python evaluation that detectors are published with.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from evaluation.detection.boxes import Bools, Floats, overlaps
from evaluation.detection.mat_file import Value, read_mat
from evaluation.detection.prediction_files import is_plain, read_predictions

SUBSETS: Final = ("easy", "medium", "hard")
NUM_THRESHOLDS: Final = 1000


class WiderTruth(NamedTuple):
    """Faces of images, and which of them count.

    Attributes:
        names: of the images, `<event>/<image>` without an ending.
        boxes: of each image, float64 [N, 4]: x, y, width, height in pixels.
        counted: by subset, of each image bool [N]; the other faces are ignored: no duty to find, no mistake to find.
    """

    names: Sequence[str]
    boxes: Sequence[Floats]
    counted: Mapping[str, Sequence[Bools]]


class WiderCurve(NamedTuple):
    """What a subset says about a detector.

    Attributes:
        ap: area under precision over recall, in [0, 1].
        num_faces: that count, >= 1.
        precision, recall: float64 [1000], at the thresholds 0.999, 0.998, ... 0 of the scaled score. Precision is NaN
            where nothing is detected yet.
    """

    ap: float
    num_faces: int
    precision: Floats
    recall: Floats


def wider_ap(ground_truth_folder: Path | str, predictions_folder: Path | str, iou: float = 0.5) -> dict[str, float]:
    """Return the average precision of detections on WIDER FACE: {"easy": ..., "medium": ..., "hard": ...}, in [0, 1].

    What is peculiar to the protocol, and kept:

    - Scores are scaled to [0, 1] by the least and the largest score of all images, so leaving out uncertain detections
      changes the figures beyond those detections. Then 1000 thresholds are tried, 0.999 to 0.
    - Overlap counts pixels: 1 is added to widths and heights.
    - A detection belongs to the face that it overlaps most, the first of two alike, and to no second choice: if that
      face is found already, the detection is a mistake, even where a neighbor is still to be found.
    - A detection of a face that does not count in a subset is dropped; one that overlaps no face by `iou` is a mistake.
    - Images without any face in the list count nothing, mistakes on them neither.
    - Faces of no size stay in the list (11 of the validation set, of which one counts, in "hard").

    Three things are not kept: the published code strips the letters j, p, g and dots from the ends of names, relies on
    detections sorted by falling score (here they are sorted, stably), and divides by 0 where all scores are the same
    (here they all become 1). For files as detectors write them the figures are the same. MATLAB's evaluation rounds
    otherwise and may differ in the third digit.

    A figure means little without the size at which images were tested: it moves "hard" by tens of points.

    Args:
        ground_truth_folder: holds wider_face_val.mat and wider_{easy,medium,hard}_val.mat.
        predictions_folder: holds `<event>/<image>.txt` for every image; see `read_predictions`.
        iou: least overlap, in (0, 1].
    Raises:
        ValueError: naming the file, and the line of a text file, if one is missing, damaged or of another form.
    """
    truth = read_wider_truth(Path(ground_truth_folder))
    folder = Path(predictions_folder)
    if not folder.is_dir():
        raise ValueError(f"{folder}: no folder of detections; expected <event>/<image>.txt in it")
    predictions = [read_predictions(folder / f"{name}.txt") for name in truth.names]
    return {subset: curve.ap for subset, curve in wider_curves(truth, predictions, iou).items()}


def wider_curves(truth: WiderTruth, predictions: Sequence[Floats], iou: float = 0.5) -> dict[str, WiderCurve]:
    """Return the curve of each subset, by the rules of `wider_ap`.

    Args:
        truth: of the images.
        predictions: of each image, float64 [M, 5]: x, y, width, height in pixels and score.
        iou: least overlap, in (0, 1].
    Raises:
        ValueError: if the numbers of images differ, a score is not finite, or no face counts in a subset.
    """
    if not 0 < iou <= 1:
        raise ValueError(f"wider_curves: iou must be in (0, 1], got {iou}")
    if len(predictions) != len(truth.names):
        raise ValueError(f"wider_curves: detections of {len(predictions)} images, but {len(truth.names)} have a truth")
    if bad := [one.shape for one in predictions if one.ndim != 2 or one.shape[1] != 5]:
        raise ValueError(f"wider_curves: detections must be [M, 5], x y width height score, got {list(bad[0])}")
    sums = {subset: np.zeros((NUM_THRESHOLDS, 2)) for subset in truth.counted}
    for image, detections in enumerate(_scaled(predictions)):
        if len(detections) and len(truth.boxes[image]):
            counted = {subset: flags[image] for subset, flags in truth.counted.items()}
            for subset, counts in _image_counts(detections, truth.boxes[image], counted, iou).items():
                sums[subset] += counts
    return {subset: _curve(subset, sums[subset], truth.counted[subset]) for subset in sums}


def read_wider_truth(folder: Path) -> WiderTruth:
    """Read WIDER FACE's ground truth, 3,226 images of the validation set.

    Args:
        folder: holds wider_face_val.mat and wider_{easy,medium,hard}_val.mat.
    Raises:
        ValueError: naming the file, if one is missing, cannot be read, or does not fit the others.
    """
    path = folder / "wider_face_val.mat"
    content = read_mat(path, ["event_list", "file_list", "face_bbx_list"])
    events = _cells(path, content["event_list"])
    files, boxes = (_by_event(path, content[key], len(events)) for key in ("file_list", "face_bbx_list"))
    names = [f"{event}/{name}" for event, of_event in zip(events, files, strict=True) for name in of_event]
    if bad := [name for name in names if not is_plain(name)]:
        raise ValueError(f"{path}: {bad[0][:80]!r} is no name of an image below a folder")
    arrays = [_boxes(path, value) for of_event in boxes for value in of_event]
    if len(arrays) != len(names):
        raise ValueError(f"{path}: {len(names)} images, but boxes of {len(arrays)}")
    counted = {subset: _counted(folder / f"wider_{subset}_val.mat", arrays, len(events)) for subset in SUBSETS}
    return WiderTruth(names, arrays, counted)


def _counted(path: Path, boxes: Sequence[Floats], num_events: int) -> list[Bools]:
    """Return which faces count, from a subset's lists of places that begin with 1."""
    lists = _by_event(path, read_mat(path, ["gt_list"])["gt_list"], num_events)
    places = [_numbers(path, value) for of_event in lists for value in of_event]
    if len(places) != len(boxes):
        raise ValueError(f"{path}: lists of {len(places)} images, but there are {len(boxes)}; a file of another set?")
    flags = [np.zeros(len(faces), bool) for faces in boxes]
    for flag, place in zip(flags, places, strict=True):
        if len(place) and (place.min() < 1 or place.max() > len(flag) or len(np.unique(place)) != len(place)):
            raise ValueError(f"{path}: a list names a face that is not there, or one twice; a file of another set?")
        flag[place - 1] = True
    return flags


def _cells(path: Path, value: Value) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError(f"{path}: a list of cells expected; it is another MATLAB file")
    return value


def _by_event(path: Path, value: Value, num_events: int) -> list[list[Any]]:
    lists = [_cells(path, of_event) for of_event in _cells(path, value)]
    if len(lists) != num_events:
        raise ValueError(f"{path}: lists of {len(lists)} events, but there are {num_events}; a file of another set?")
    return lists


def _boxes(path: Path, value: Value) -> Floats:
    array = np.asarray(value, np.float64) if isinstance(value, np.ndarray) else np.zeros((0, 0))
    if array.size and (array.ndim != 2 or array.shape[1] != 4 or not np.isfinite(array).all()):
        raise ValueError(f"{path}: boxes must be finite and [N, 4], got {list(array.shape)}")
    return array.reshape(-1, 4)


def _numbers(path: Path, value: Value) -> NDArray[np.int64]:
    if not isinstance(value, np.ndarray):
        raise ValueError(f"{path}: lists of numbers expected; it is another MATLAB file")
    return value.ravel().astype(np.int64)


def _scaled(predictions: Sequence[Floats]) -> Iterable[Floats]:
    """Yield the detections of each image by falling score, the scores scaled to [0, 1] over all images."""
    scores = np.concatenate([np.zeros(0), *(detections[:, 4] for detections in predictions)])
    if not np.isfinite(scores).all():
        raise ValueError("wider_curves: a score is not finite; find the image or layer that produced it")
    low, high = (scores.min(), scores.max()) if len(scores) else (0.0, 1.0)
    for detections in predictions:
        order = np.argsort(-detections[:, 4], kind="stable")
        scaled = detections[order].astype(np.float64)
        scaled[:, 4] = (scaled[:, 4] - low) / (high - low) if high > low else 1.0
        yield scaled


def _image_counts(
    detections: Floats, truth: Floats, counted: Mapping[str, Bools], iou: float
) -> dict[str, NDArray[np.int64]]:
    """Return by subset how many detections are judged and how many faces found at each threshold: int64 [1000, 2]."""
    shared = overlaps(_corners(detections), _corners(truth), pixel=1.0)
    face = shared.argmax(axis=1)
    is_hit = shared[np.arange(len(face)), face] >= iou
    thresholds = 1 - (np.arange(NUM_THRESHOLDS) + 1) / NUM_THRESHOLDS
    num_kept = np.searchsorted(-detections[:, 4], -thresholds, side="right")
    counts = {}
    for subset, counts_here in counted.items():
        hits = np.flatnonzero(is_hit & counts_here[face])
        is_first = np.zeros(len(face), bool)
        is_first[hits[np.unique(face[hits], return_index=True)[1]]] = True
        judged = ~is_hit | counts_here[face]
        running = np.zeros((len(face) + 1, 2), np.int64)
        np.cumsum(judged, out=running[1:, 0])
        np.cumsum(is_first, out=running[1:, 1])
        counts[subset] = running[num_kept]
    return counts


def _corners(boxes: Floats) -> Floats:
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:4]], axis=1)


def _curve(subset: str, sums: Floats, counted: Sequence[Bools]) -> WiderCurve:
    num_faces = sum(int(flags.sum()) for flags in counted)
    if num_faces == 0:
        raise ValueError(f"wider_curves: no face counts in {subset!r}, so no recall can be said")
    judged, found = sums.T
    precision = np.divide(found, judged, out=np.full(len(judged), np.nan), where=judged > 0)
    recall = found / num_faces
    return WiderCurve(_area(recall, np.where(judged > 0, precision, 0.0)), num_faces, precision, recall)


def _area(recall: Floats, precision: Floats) -> float:
    """Return the area under a curve whose precision is the best at that recall or a larger one (PASCAL VOC 2010)."""
    steps = np.concatenate([[0.0], recall, [1.0]])
    envelope = np.maximum.accumulate(np.concatenate([[0.0], precision, [0.0]])[::-1])[::-1]
    moved = np.flatnonzero(steps[1:] != steps[:-1])
    return float(np.sum((steps[moved + 1] - steps[moved]) * envelope[moved + 1]))
