"""Faces found by a detector that `python main.py export` put into a folder; part of that folder, beside runtime.py."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np

LONG_SIDE = 640  # with which photographs are looked at first: detectors miss larger faces
MIN_SIDE = 16
LOOKS = (1.0, 2.0, 0.5)  # times the side of the first look
_STEPS, _VARIANCES = (8, 16, 32), (0.1, 0.2)
_MEAN = (123, 117, 104)  # RGB, which the network takes for nothing
_OVERLAP_YUNET, _OVERLAP, _MOST = 0.3, 0.4, 1000


class Face(NamedTuple):
    """A face that was found: box [4] x1 y1 x2 y2 and five points [5, 2] in pixels, score in [0, 1]."""

    box: np.ndarray
    score: float
    points: np.ndarray


class Finder:
    """YuNet in OpenCV, of which each thread opens its own, or a RetinaFace's graph in onnxruntime, which all share.

    Args:
        source: path of YuNet, or the session of a graph that takes uint8 [B, H, W, 3] RGB.
        threshold: least score of a face.
        min_sizes: sides of the priors that a RetinaFace was trained with, for each of its levels.
    """

    def __init__(self, source: Any, threshold: float, min_sizes: Sequence[Sequence[float]] = ()) -> None:
        self._source, self.threshold, self._min_sizes = source, threshold, min_sizes
        self._own = threading.local()

    def find(self, image: np.ndarray) -> list[Face]:
        """Return the faces in a photograph uint8 [H, W, 3] RGB, the surest first; looked for at three sizes."""
        first = min(1.0, LONG_SIDE / max(image.shape[:2]))
        for look in LOOKS:
            if min(image.shape[:2]) * first * look >= MIN_SIDE and (found := self.look(image, first * look)):
                return found
        return []

    def look(self, image: np.ndarray, scale: float) -> list[Face]:
        """Return the faces that are found in a photograph at a scale, in its own pixels, the surest first."""
        height, width = image.shape[:2]
        sides = max(1, round(width * scale)), max(1, round(height * scale))
        method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        view = image if scale == 1 else cv2.resize(image, sides, interpolation=method)
        rows = self._yunet(view) if isinstance(self._source, str) else self._retinaface(view)
        ratio = np.array([width / sides[0], height / sides[1]])
        back = [(row[:14].reshape(7, 2) + 0.5) * ratio - 0.5 for row in rows]
        faces = [Face(p[:2].ravel(), float(row[14]), p[2:]) for p, row in zip(back, rows, strict=True)]
        return sorted(faces, key=lambda face: -face.score)

    def _yunet(self, view: np.ndarray) -> np.ndarray:
        if not hasattr(self._own, "net"):
            self._own.net = cv2.FaceDetectorYN.create(
                self._source, "", (320, 320), self.threshold, _OVERLAP_YUNET, _MOST
            )
        self._own.net.setInputSize((view.shape[1], view.shape[0]))
        _, found = self._own.net.detect(np.ascontiguousarray(view[..., ::-1]))
        rows = np.empty((0, 15)) if found is None else np.asarray(found, np.float64)
        rows[:, 2:4] += rows[:, :2]
        return rows

    def _retinaface(self, view: np.ndarray) -> np.ndarray:
        # Pyramids shift what they find where a side is no multiple of their coarsest step.
        right, below = (-side % _STEPS[-1] for side in (view.shape[1], view.shape[0]))
        view = cv2.copyMakeBorder(view, 0, below, 0, right, cv2.BORDER_CONSTANT, value=_MEAN)
        loc, conf, marks = (found[0] for found in self._source.run(None, {"images": view[None]}))
        sides = np.array([view.shape[1], view.shape[0]], np.float64)
        chosen = np.flatnonzero(conf[:, 1] > self.threshold)
        chosen = chosen[np.argsort(-conf[chosen, 1], kind="stable")][:_MOST]
        prior = priors(view.shape[0], view.shape[1], self._min_sizes)[chosen]
        center = prior[:, :2] + loc[chosen, :2] * _VARIANCES[0] * prior[:, 2:]
        half = prior[:, 2:] * np.exp(loc[chosen, 2:] * _VARIANCES[1]) / 2
        points = prior[:, None, :2] + marks[chosen].reshape(-1, 5, 2) * _VARIANCES[0] * prior[:, None, 2:]
        boxes = np.concatenate([center - half, center + half], 1) * np.tile(sides, 2)
        rows = np.concatenate([boxes, (points * sides).reshape(-1, 10), conf[chosen, 1:2]], 1)
        rows[:, :14] -= 0.5  # from the edges of pixels, by which the network counts, to their centers
        return rows[kept(boxes, _OVERLAP)]


def priors(height: int, width: int, min_sizes: Sequence[Sequence[float]]) -> np.ndarray:
    """Return the priors [P, 4] of an image, center and size relative to its sides, level by level, row by row."""
    levels = []
    for sizes, step in zip(min_sizes, _STEPS, strict=True):
        y, x = ((np.arange(-(-side // step)) + 0.5) * step / side for side in (height, width))
        shape = (len(y), len(x), len(sizes))
        cells = [np.broadcast_to(x[None, :, None], shape), np.broadcast_to(y[:, None, None], shape)]
        cells += [np.broadcast_to(np.array(sizes) / side, shape) for side in (width, height)]
        levels.append(np.stack(cells, -1).reshape(-1, 4))
    return np.concatenate(levels).astype(np.float32)


def kept(boxes: np.ndarray, threshold: float) -> list[int]:
    """Return which boxes [N, 4] in pixels, the surest first, stay: none overlaps a surer one by more than that."""
    area = np.prod(boxes[:, 2:] - boxes[:, :2] + 1, axis=1)
    found: list[int] = []
    waiting = np.arange(len(boxes))
    while len(waiting):
        best, others = waiting[0], waiting[1:]
        found.append(int(best))
        corner = np.minimum(boxes[best, 2:], boxes[others, 2:]) - np.maximum(boxes[best, :2], boxes[others, :2]) + 1
        shared = np.prod(np.maximum(corner, 0), axis=1)
        waiting = others[shared / (area[best] + area[others] - shared) <= threshold]
    return found
