"""YuNet, run by OpenCV's FaceDetectorYN from a file that the user has; `python main.py fetch yunet` gets it.

Wu, Peng, Yu, "YuNet: A Tiny Millisecond-level Face Detector", Machine Intelligence Research 2023. It is faster than the
embedded detector and better under masks.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import cv2
import numpy as np

from datasets.photos.detection import Detection, Image, check_image

#: Files whose checksum is known: what a result is told to come from.
KNOWN = {
    "daede24002cc8590f457998cc5e6c9e8b82f45f6bd969506a8913cd4ed10a2d3": "YuNet-s 2023mar, any size",
    "8f2383e4dd3cfbb4553ea8718107fc0423210dc964f9f4280604804ed2552fa4": "YuNet-s 2023mar",
}
THRESHOLD = 0.6  # 0.9, the usual one of its demonstration, loses one photograph in fifty

_OVERLAP, _MOST = 0.3, 5000
_MIN_SIDE = 8  # below, it answers with nothing
_MAX_BYTES = 2**26


class YuNet:
    """YuNet from an ONNX file.

    Args:
        path: of any checksum; one that is known is named in `name`.
    Raises:
        ValueError: if the file cannot be read or is no such network.
    """

    threshold = THRESHOLD

    def __init__(self, path: Path) -> None:
        data = _read(path)
        checksum = hashlib.sha256(data).hexdigest()
        self.name = f"{KNOWN.get(checksum, f'{path.name}, unknown file')} (sha256 {checksum[:8]})"
        model = np.frombuffer(data, np.uint8)
        try:
            self._net = cv2.FaceDetectorYN.create(
                "onnx", model, np.empty(0, np.uint8), (320, 320), THRESHOLD, _OVERLAP, _MOST
            )
            self._detect(np.zeros((32, 32, 3), np.uint8))
        except cv2.error as error:
            raise ValueError(f"{path}: no YuNet that OpenCV can run; `main.py fetch yunet` gets one") from error

    def detect(self, image: Image, threshold: float | None = None) -> list[Detection]:
        """Return the faces in an image, see `Detector`."""
        check_image(image)
        if min(image.shape[:2]) < _MIN_SIDE:
            return []
        self._net.setScoreThreshold(THRESHOLD if threshold is None else threshold)
        return self._detect(image)

    def _detect(self, image: Image) -> list[Detection]:
        # Of another size than the one before it would raise.
        self._net.setInputSize((image.shape[1], image.shape[0]))
        _, given = self._net.detect(cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
        rows = np.empty((0, 15)) if given is None else given.astype(np.float64)
        boxes = np.concatenate([rows[:, :2], rows[:, :2] + rows[:, 2:4]], axis=1)
        faces = zip(boxes, rows[:, 14], rows[:, 4:14].reshape(-1, 5, 2), strict=True)
        return sorted(
            (Detection(box, float(score), points) for box, score, points in faces), key=lambda one: -one.score
        )


def _read(path: Path) -> bytes:
    try:
        if not path.is_file():
            raise ValueError(f"{path}: no such detector file; `main.py fetch yunet` gets one, or leave --detector out")
        with path.open("rb") as stream:
            data = stream.read(_MAX_BYTES + 1)
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror})") from error
    if len(data) > _MAX_BYTES:
        raise ValueError(f"{path}: longer than {_MAX_BYTES} bytes; YuNet has 240 kB")
    return data
