"""Average precision as COCO defines it, for one class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np

from evaluation.detection.boxes import Bools, Floats, Found, Truth, check_images, match, overlaps

IOUS: Final = tuple(np.linspace(0.5, 0.95, 10).tolist())
#: Areas in pixels, both ends included: COCO's small, medium and large.
AREAS: Final = {"all": (0.0, 1e10), "small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, 1e10)}
RECALLS: Final = np.linspace(0.0, 1.0, 101)


class CocoResult(NamedTuple):
    """Figures in [0, 1]; NaN where no face counts.

    Attributes:
        ap: mean over the overlaps 0.50, 0.55, ... 0.95.
        ap_50, ap_75: at one overlap.
        ap_small, ap_medium, ap_large: `ap` of faces by the area of their box; see AREAS.
        recall: mean over the overlaps of the largest recall (COCO's AR).
        num_faces: that count.
    """

    ap: float
    ap_50: float
    ap_75: float
    ap_small: float
    ap_medium: float
    ap_large: float
    recall: float
    num_faces: int


class Judged(NamedTuple):
    """Detections of all images at one overlap, in one range of areas."""

    scores: Floats
    is_right: Bools
    is_ignored: Bools


def coco_ap(truths: Sequence[Truth], found: Sequence[Found], max_detections: int = 100) -> CocoResult:
    """Return COCO's average precision of a detector.

    In each image the `max_detections` surest detections choose faces by `match`; precision, made to fall with recall,
    is read at the 101 recalls 0, 0.01, ... 1 and averaged. Boxes are edges: no pixel is added. `Truth.ignored` is
    COCO's iscrowd: such a face takes any number of detections, by the share of the detection that lies in it. In a
    range of areas faces outside it are ignored, and so are detections outside it that find none.

    Args:
        truths, found: of each image.
        max_detections: >= 1; 100 is COCO's. Crowds of faces need more: WIDER FACE's validation set has up to 709.
    Raises:
        ValueError: if numbers of images differ, a shape is wrong or a number is not finite.
    Reference: Lin et al., "Microsoft COCO: Common Objects in Context", ECCV 2014, arXiv:1405.0312; the rules are those
        of its evaluation code.
    """
    check_images("coco_ap", truths, found)
    if max_detections < 1:
        raise ValueError(f"coco_ap: max_detections must be >= 1, got {max_detections}")
    images = [prepared(truth, one, max_detections) for truth, one in zip(truths, found, strict=True)]
    precision, recall = {}, {}
    for name, area in AREAS.items():
        num_faces = sum(int((~_outside(truth.boxes, area) & ~truth.ignored).sum()) for truth, _, _ in images)
        figures = [_at(images, area, iou, num_faces) for iou in IOUS]
        precision[name], recall[name] = (np.array(column) for column in zip(*figures, strict=True))
    every, small, medium, large = (precision[name] for name in AREAS)
    return CocoResult(
        ap=float(every.mean()),
        ap_50=float(every[0]),
        ap_75=float(every[5]),
        ap_small=float(small.mean()),
        ap_medium=float(medium.mean()),
        ap_large=float(large.mean()),
        recall=float(recall["all"].mean()),
        num_faces=sum(int((~truth.ignored).sum()) for truth in truths),
    )


Prepared = tuple[Truth, Found, Floats]


def prepared(truth: Truth, found: Found, max_detections: int) -> Prepared:
    """Return an image with its surest detections in order, and what they share with each face."""
    order = np.argsort(-found.scores, kind="stable")[:max_detections]
    boxes = found.boxes[order].astype(np.float64)
    shared = overlaps(boxes, truth.boxes)
    if truth.ignored.any():
        crowd = truth.boxes[truth.ignored]
        union = _areas(boxes)[:, None] + _areas(crowd)[None]
        inside = shared[:, truth.ignored]
        common = inside * union / (1 + inside)
        area = np.maximum(_areas(boxes)[:, None], 1e-12)
        shared[:, truth.ignored] = common / area
    return truth, Found(boxes, found.scores[order]), shared


def _at(images: Sequence[Prepared], area: tuple[float, float], iou: float, num_faces: int) -> tuple[float, float]:
    """Return average precision and largest recall."""
    if num_faces == 0:
        return float("nan"), float("nan")
    parts = [judge(image, area, iou) for image in images]
    scores, is_right, is_ignored = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.argsort(-scores, kind="stable")
    order = order[~is_ignored[order]]
    right = np.cumsum(is_right[order])
    recall = right / num_faces
    precision = np.maximum.accumulate((right / np.arange(1, len(right) + 1))[::-1])[::-1]
    places = np.searchsorted(recall, RECALLS, side="left")
    return float(np.append(precision, 0.0)[places].mean()), float(recall[-1]) if len(recall) else 0.0


def judge(image: Prepared, area: tuple[float, float], iou: float) -> Judged:
    """Return which detections of an image are right, and which count as nothing, for faces in a range of areas."""
    truth, found, shared = image
    ignored = truth.ignored | _outside(truth.boxes, area)
    faces = match(shared, ignored, iou, truth.ignored)
    is_found = faces >= 0
    drops = np.append(ignored, False)[faces]  # the last one is for -1
    return Judged(found.scores, is_found & ~drops, drops | (~is_found & _outside(found.boxes, area)))


def _outside(boxes: Floats, area: tuple[float, float]) -> Bools:
    areas = _areas(boxes)
    return (areas < area[0]) | (areas > area[1])


def _areas(boxes: Floats) -> Floats:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
