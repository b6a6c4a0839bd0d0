"""What an image is between reader and batch, and what a transform of it returns."""

from __future__ import annotations

from typing import Final, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from transforms.landmarks import IMAGE_SIZE

Image = NDArray[np.uint8]
Mask = NDArray[np.uint8]

_UINT8: Final = np.dtype(np.uint8)
_SHAPE: Final = (IMAGE_SIZE, IMAGE_SIZE, 3)


class View(NamedTuple):
    """An image and what of the face can be seen in it.

    Attributes:
        image: uint8 [112, 112, 3], RGB.
        visibility: uint8 [112, 112], 1 = visible, 0 = occluded (covered by more than half, or outside the crop).
    """

    image: Image
    visibility: Mask


class Occluder(Protocol):
    """A callable that covers a part of an aligned face.

    It reads `image` uint8 [112, 112, 3] RGB without changing it, draws everything random from `rng`, leaves pixels
    outside the occluder as they are, and returns a new View. Raises TypeError or ValueError for any other `image`.
    """

    def __call__(self, image: Image, rng: np.random.Generator) -> View:
        """Return the occluded view."""
        ...


def check_image(image: Image, place: str) -> None:
    """Raise TypeError unless `image` is a uint8 array, ValueError unless its shape is [112, 112, 3]."""
    if not isinstance(image, np.ndarray) or image.dtype != _UINT8:
        received = image.dtype if isinstance(image, np.ndarray) else type(image).__name__
        raise TypeError(
            f"{place}: image must be a numpy array of uint8, got {received}; pass decoded pixels, no tensor."
        )
    if image.shape != _SHAPE:
        raise ValueError(
            f"{place}: image must be [{IMAGE_SIZE}, {IMAGE_SIZE}, 3], got {list(image.shape)}; "
            "align or resize the face and turn gray into RGB first."
        )
