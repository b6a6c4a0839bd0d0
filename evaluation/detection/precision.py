"""Average precision on resamples of photographs, and the curve behind it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from evaluation.detection.boxes import Bools, Floats, Found, Ints, Truth, check_images
from evaluation.detection.coco import AREAS, IOUS, RECALLS, Prepared, judge, prepared
from evaluation.protocols.weighted import WeightedMeasure


class PrecisionCurve(NamedTuple):
    """What becomes of a detector as its threshold falls: a value for each face that is found.

    Attributes:
        recall, precision: float64 [K], in [0, 1].
        mistakes: float64 [K], detections of no face by then, a photograph.
        scores: float64 [K], falling.
    """

    recall: Floats
    precision: Floats
    mistakes: Floats
    scores: Floats


class _Ordered(NamedTuple):
    """Detections of all photographs by falling score: where each is from, which are right, and what they score."""

    photos: Ints
    is_right: Bools
    scores: Floats


def precision_measure(
    truths: Sequence[Truth], found: Sequence[Found], max_detections: int = 100, ious: Sequence[float] = IOUS
) -> WeightedMeasure:
    """Return COCO's average precision as a function of how often each photograph counts.

    Detections choose faces within their photograph, whatever the others are: that is done once. A photograph that
    counts twice is two photographs with the same scores. With all weights one the values are those of `coco_ap`.

    Args:
        truths, found: of each of P photographs, as of `coco_ap`.
        max_detections: >= 1, the surest of a photograph.
        ious: least overlaps, the first of which has a column of its own.
    Returns:
        Weights [R, P] >= 0 -> [R, 2]: the mean over `ious`, and at the first of them; NaN where no face counts.
    Raises:
        ValueError: as `coco_ap`.
    """
    check_images("precision_measure", truths, found)
    images = [prepared(truth, one, max_detections) for truth, one in zip(truths, found, strict=True)]
    judged = [_ordered(images, iou) for iou in ious]
    num_faces = np.array([float((~truth.ignored).sum()) for truth in truths])

    def measure(weights: Floats) -> Floats:
        values = np.array([[_average(one, row, float(row @ num_faces)) for one in judged] for row in weights])
        return np.column_stack([values.mean(axis=1), values[:, 0]])

    return measure


def precision_curve(
    truths: Sequence[Truth], found: Sequence[Found], iou: float = 0.5, max_detections: int = 100
) -> PrecisionCurve:
    """Return the curve of a detector at one overlap.

    Args:
        truths, found, max_detections: as of `precision_measure`.
        iou: least overlap, in (0, 1].
    Raises:
        ValueError: as `coco_ap`.
    """
    check_images("precision_curve", truths, found)
    images = [prepared(truth, one, max_detections) for truth, one in zip(truths, found, strict=True)]
    ordered = _ordered(images, iou)
    num_faces = sum(int((~truth.ignored).sum()) for truth in truths)
    hits = np.flatnonzero(ordered.is_right)
    right = np.arange(1, len(hits) + 1)
    mistakes = (hits + 1 - right) / max(1, len(truths))
    return PrecisionCurve(right / max(1, num_faces), right / (hits + 1), mistakes, ordered.scores[hits])


def _ordered(images: Sequence[Prepared], iou: float) -> _Ordered:
    parts = [judge(image, AREAS["all"], iou) for image in images]
    photos = np.repeat(np.arange(len(parts)), [len(part.scores) for part in parts])
    scores, is_right, is_ignored = (
        np.concatenate([np.empty(0, kind), *column])
        for kind, column in zip((float, bool, bool), zip(*parts, strict=True), strict=True)
    )
    order = np.argsort(-scores, kind="stable")
    order = order[~is_ignored[order]]
    return _Ordered(photos[order], is_right[order], scores[order])


def _average(ordered: _Ordered, weights: Floats, num_faces: float) -> float:
    """Return average precision of weighted photographs; only detections that are right raise recall and envelope."""
    if num_faces == 0:
        return float("nan")
    counts = weights[ordered.photos]
    judged = np.cumsum(counts)[ordered.is_right]
    right = np.cumsum(counts[ordered.is_right])
    precision = np.divide(right, judged, out=np.zeros_like(right), where=judged > 0)
    envelope = np.append(np.maximum.accumulate(precision[::-1])[::-1], 0.0)
    return float(envelope[np.searchsorted(right / num_faces, RECALLS, side="left")].mean())
