"""What a comparison of detectors says: figures of each, their intervals over photographs, paired differences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations, pairwise
from typing import Any, Final, NamedTuple

import numpy as np

from evaluation.detection.boxes import Bools, Floats, Found, Ints, Truth, find_faces, match, overlaps
from evaluation.detection.coco import coco_ap
from evaluation.detection.landmarks import interocular, landmark_errors
from evaluation.detection.precision import precision_curve, precision_measure
from evaluation.detection.recall import OCCLUSION_EDGES, SIZE_EDGES, RecallGroup, face_sizes, recall_by, recall_by_name
from evaluation.protocols.bootstrap import Draws, Resampling, draw_all, summarize

IOU: Final = 0.5  # of all but the average precision over overlaps
CLEAR: Final = 0.01  # share of a face below which nothing hides it
#: Figures with an interval: mean average precision over overlaps, at 0.5, recall and mistakes a photograph in use.
MEASURES: Final = ("ap", "ap_50", "recall", "mistakes")
UNKNOWN: Final = "not known"
_CURVE_POINTS = 200


class LabeledFaces(NamedTuple):
    """What is known of the faces of a photograph.

    Attributes:
        truth: boxes [N, 4] and which are ignored.
        points: float64 [N, 5, 2], NaN where not labeled.
        hidden: float64 [N], share that cannot be seen, NaN where not known.
        occluders: N words, "" where not known.
    """

    truth: Truth
    points: Floats
    hidden: Floats
    occluders: Sequence[str]


class DetectedFaces(NamedTuple):
    """What a detector found in a photograph: boxes [M, 4] with scores, float64 [M, 5, 2] points, NaN without."""

    found: Found
    points: Floats

    def above(self, threshold: float) -> DetectedFaces:
        """Return what scores as much as a threshold."""
        kept = self.found.scores >= threshold
        return DetectedFaces(Found(self.found.boxes[kept], self.found.scores[kept]), self.points[kept])


class DetectorFaces(NamedTuple):
    """What a detector found in all photographs.

    Attributes:
        every: of each photograph, down to a low score, for average precision.
        used: of each, as whoever uses the detector gets them.
    """

    every: Sequence[DetectedFaces]
    used: Sequence[DetectedFaces]


def compare_detectors(
    faces: Sequence[LabeledFaces],
    detectors: Mapping[str, DetectorFaces],
    max_detections: int = 100,
    num_resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Return the figures of detectors on the same photographs, as primitives for a JSON file.

    Intervals are 95 % percentiles of a bootstrap over photographs: detections and faces of one stay together. All
    detectors meet the same resamples, so that differences are paired. Intervals of recall in groups are exact
    (Clopper-Pearson), as if faces were independent; those of a photograph are not.

    Args:
        faces: of each photograph.
        detectors: by name, at least one.
        max_detections: of a photograph that count for average precision.
        num_resamples: of photographs, >= 1.
        seed: of the resamples.
    Returns:
        "detectors": by name `MEASURES` with intervals, the curve, recall in groups, errors of points, mistakes of each
        photograph; "differences": of each two; NaN became None.
    Raises:
        ValueError: if no face counts, or numbers of photographs differ.
    """
    num_faces = sum(int((~one.truth.ignored).sum()) for one in faces)
    if num_faces == 0:
        raise ValueError("no face counts in these photographs, so nothing can be said of a detector")
    truths = [one.truth for one in faces]
    found, drawn = {}, {}
    judged = {name: _judge(faces, detector.used) for name, detector in detectors.items()}
    resampling = Resampling(None, num_resamples, seed)
    common = np.all([one.found for one in judged.values()], axis=0)
    for name, detector in detectors.items():
        every = [one.found for one in detector.every]
        measures = [precision_measure(truths, every, max_detections), _rates_measure(faces, judged[name])]
        drawn[name] = draw_all(MEASURES, measures, np.ones(len(faces), bool), resampling)
        curve = precision_curve(truths, every, IOU, max_detections)
        kept = np.unique(np.linspace(0, len(curve.recall) - 1, min(_CURVE_POINTS, len(curve.recall))).astype(int))
        found[name] = {
            **{measure: _interval(draws) for measure, draws in drawn[name].items()},
            "coco": coco_ap(truths, every, max_detections)._asdict(),
            "curve": {key: values[kept].tolist() for key, values in curve._asdict().items()},
            **_groups(faces, judged[name]),
            "points": _points(faces, judged[name], common),
            "num_detections": sum(len(one.found.scores) for one in detector.used),
            "num_mistakes": int(judged[name].mistakes.sum()),
        }
    differences = [
        {
            "first": first, "second": second,
            **{measure: _interval(_minus(drawn[first][measure], drawn[second][measure])) for measure in MEASURES},
        }
        for first, second in combinations(detectors, 2)
    ]  # fmt: skip
    return _plain({
        "num_photos": len(faces), "num_faces": num_faces, "intervals": resampling_text(resampling),
        "detectors": found, "differences": differences,
    })  # fmt: skip


def resampling_text(resampling: Resampling) -> str:
    """Return how intervals were made, in words."""
    return f"95 % percentile bootstrap over photographs, {resampling.num_resamples} resamples, seed {resampling.seed}"


def photo_errors(faces: LabeledFaces, used: DetectedFaces) -> tuple[Bools, Bools]:
    """Return which faces of a photograph are missed, bool [N], and which detections are mistakes, bool [M].

    A face that is ignored is not missed; a detection of one is no mistake, whatever number finds it.
    """
    truth, found = faces.truth, used.found
    finder = find_faces(truth, found, IOU)
    order = np.argsort(-found.scores, kind="stable")
    chosen = match(overlaps(found.boxes[order], truth.boxes), truth.ignored, IOU, truth.ignored)
    mistakes = np.zeros(len(order), bool)
    mistakes[order[chosen < 0]] = True
    return (finder < 0) & ~truth.ignored, mistakes


class _Judged(NamedTuple):
    """The faces of all photographs that count, one after the other, and what a detector in use makes of them."""

    found: Bools  # [F]
    points: Floats  # [F, 5, 2], NaN where not found
    per_photo: Ints  # [P, 2]: faces, faces found
    mistakes: Ints  # [P]


def _judge(faces: Sequence[LabeledFaces], used: Sequence[DetectedFaces]) -> _Judged:
    is_found, points, per_photo, mistakes = [], [], [], []
    for one, detected in zip(faces, used, strict=True):
        counts = ~one.truth.ignored
        finder = find_faces(one.truth, detected.found, IOU)[counts]
        with_none = np.concatenate([detected.points, np.full((1, 5, 2), np.nan)])
        is_found.append(finder >= 0)
        points.append(with_none[finder])
        per_photo.append((int(counts.sum()), int((finder >= 0).sum())))
        mistakes.append(int(photo_errors(one, detected)[1].sum()))
    return _Judged(np.concatenate(is_found), np.concatenate(points), np.array(per_photo), np.array(mistakes))


def _rates_measure(faces: Sequence[LabeledFaces], judged: _Judged) -> Any:
    """Return recall and mistakes a photograph as functions of weights [R, P]."""

    def measure(weights: Floats) -> Floats:
        faces_found = weights @ judged.per_photo
        recall = np.divide(
            faces_found[:, 1], faces_found[:, 0], out=np.full(len(weights), np.nan), where=faces_found[:, 0] > 0
        )
        return np.column_stack([recall, weights @ judged.mistakes / len(faces)])

    return measure


def _groups(faces: Sequence[LabeledFaces], judged: _Judged) -> dict[str, list[dict[str, Any]]]:
    """Return the recall of faces by size, by what hides them and by how much of them is hidden; of what is known."""
    counts = [~one.truth.ignored for one in faces]
    boxes = np.concatenate([one.truth.boxes[kept] for one, kept in zip(faces, counts, strict=True)])
    hidden = np.concatenate([one.hidden[kept] for one, kept in zip(faces, counts, strict=True)])
    words = [
        word or UNKNOWN
        for one, kept in zip(faces, counts, strict=True)
        for word, counted in zip(one.occluders, kept.tolist(), strict=True)
        if counted
    ]
    groups = {"by_size": _by_value(judged.found, face_sizes(boxes), SIZE_EDGES)}
    if not np.isnan(hidden).all():
        groups["by_hidden"] = _by_value(judged.found, hidden, OCCLUSION_EDGES)
    if set(words) != {UNKNOWN}:
        groups["by_occluder"] = [_group(one) for one in recall_by_name(judged.found, words)]
    return groups


def _by_value(found: Bools, values: Floats, edges: Sequence[float]) -> list[dict[str, Any]]:
    """Return the groups that have faces, each with the median of its values, where a chart has its dot."""
    groups = zip(recall_by(found, values, edges), pairwise(edges), strict=True)
    middles = ((one, values[(values >= low) & ((values < high) | (high == edges[-1]))]) for one, (low, high) in groups)
    return [{**_group(one), "middle": float(np.median(inside))} for one, inside in middles if one.num_faces]


def _group(group: RecallGroup) -> dict[str, Any]:
    lower, upper = group.interval
    return {**group._asdict(), "interval": {"lower": lower, "upper": upper}}


def _points(faces: Sequence[LabeledFaces], judged: _Judged, common: Bools) -> dict[str, Any]:
    """Return the errors of points over the distance between the eyes: of all faces found, of clear ones, of common."""
    counts = [~one.truth.ignored for one in faces]
    true = np.concatenate([one.points[kept] for one, kept in zip(faces, counts, strict=True)])
    hidden = np.concatenate([one.hidden[kept] for one, kept in zip(faces, counts, strict=True)])
    lengths = interocular(true)
    usable = judged.found & (lengths > 0) & np.isfinite(judged.points).all(axis=(1, 2))
    chosen = {"found": usable, "clear": usable & (hidden < CLEAR), "common": usable & common}
    return {
        name: landmark_errors(judged.points[flags], true[flags], lengths[flags])._asdict() if flags.any() else None
        for name, flags in chosen.items()
    }


def _minus(first: Draws, second: Draws) -> Draws:
    return Draws(first.estimate - second.estimate, first.values - second.values)


def _interval(draws: Draws) -> dict[str, float]:
    return {key: float(value) for key, value in summarize(draws)._asdict().items()}


def _plain(value: Any) -> Any:
    """Return a value of dicts, lists and numbers as JSON has them; NaN, which it lacks, becomes None."""
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, np.ndarray | list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, float | np.floating):
        return float(value) if np.isfinite(value) else None
    return value.item() if isinstance(value, np.generic) else value
