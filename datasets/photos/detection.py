"""What every detector of faces gives, and what it is asked; `models.detectors` has them."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]
Array = NDArray[np.float64]


class Detection(NamedTuple):
    """A face that was found.

    Attributes:
        box: float64 [4], x1, y1, x2, y2 in pixels of the image; may reach beyond it.
        score: in [0, 1]; the scores of two detectors are not comparable.
        points: float64 [5, 2], x and y in pixels, in the order of `transforms.TEMPLATE`: eyes, tip of the nose, corners
            of the mouth, of two the left one first, as the viewer sees them.
    """

    box: Array
    score: float
    points: Array


class Detector(Protocol):
    """Finds faces in images. An object belongs to one thread: OpenCV's networks are not safe to share."""

    @property
    def name(self) -> str:
        """What is recorded with results: kind, version or checksum."""

    @property
    def threshold(self) -> float:
        """The usual least score."""

    def detect(self, image: Image, threshold: float | None = None) -> list[Detection]:
        """Return the faces in an image, the surest first.

        Args:
            image: uint8 [H, W, 3] RGB.
            threshold: least score; None: the usual one.
        Raises:
            TypeError, ValueError: if the image is another kind of array.
        """


def check_image(image: Image) -> None:
    """Refuse what OpenCV's networks answer with nothing, without a word.

    Raises:
        TypeError, ValueError: if the image is not uint8 [H, W, 3].
    """
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8:
        kind = image.dtype if isinstance(image, np.ndarray) else type(image).__name__
        raise TypeError(f"detect: an image must be uint8 in RGB order, got {kind}.")
    if image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise ValueError(f"detect: an image must be [H, W, 3], got {list(image.shape)}.")
