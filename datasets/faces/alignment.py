"""Whether the faces of a set lie where the five-point template has them, from a sample and from pixels alone.

Local means and contrasts are taken out of each image. Then two figures say how well a sketch of a face fits, dark eyes
and mouth, bright cheeks and bridge of the nose, all at the template's places: `face`, the correlation of the sketch
with the average of the sample, and `eyes`, the mean correlation of single images with it in a strip around the eyes.
Masks spoil the first and dark glasses the second a little, hardly ever both; faces elsewhere spoil both. An image that
is not square is no crop of the template at all.

docs/data.md has the rates at which sets are called unaligned, rightly and wrongly.
"""

from __future__ import annotations

import logging
from functools import cache
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from datasets.faces.image_folder import ImageFolderDataset
from datasets.faces.image_header import image_size
from datasets.faces.images import UnreadableImageError
from datasets.payloads import Payload, decode_payload, portions
from datasets.records.dataset import RecordDataset
from datasets.sample import FaceDataset, Image
from transforms.landmarks import IMAGE_SIZE, TEMPLATE

logger = logging.getLogger(__name__)
SAMPLE = 200
MIN_SAMPLE = 10
# The worst aligned sets of 200 have 0.45 and 0.25, niqabs -0.02 and 0.31; the ORL photographs 0.25 and 0.22.
MIN_FACE = 0.36
MIN_EYES = 0.26
MAX_NOT_SQUARE = 0.5

_SMALL = IMAGE_SIZE // 2
_WINDOW = 17
_STRIP = (slice(21, 31), slice(10, 46))
# Of the average of n faces, noise is as strong as what they share at n = 10; single figures scatter by 0.3.
_NOISE, _SCATTER = 10, 0.3
# Eyes so far below their bound are elsewhere, whatever the rest says: it is what all faces moved a little have.
_SURE = 0.1

Array = NDArray[np.float32]


class Alignment(NamedTuple):
    """What a sample says of the alignment of a set.

    Attributes:
        num_images: readable images of the sample.
        num_not_square: how many of them are not square, by their headers.
        face, eyes: how well they fit the template, see the module; 0 where that was not measured.
    """

    num_images: int
    num_not_square: int
    face: float = 0.0
    eyes: float = 0.0

    @property
    def is_judged(self) -> bool:
        """Whether the sample is large enough."""
        return self.num_images >= MIN_SAMPLE

    @property
    def is_suspect(self) -> bool:
        """Whether the faces look unaligned; False where nothing can be said."""
        face, eyes = self._bounds
        elsewhere = (self.face < face and self.eyes < eyes) or self.eyes < eyes - _SURE
        return self.is_judged and (self._is_stretched or elsewhere)

    @property
    def _is_stretched(self) -> bool:
        return self.num_not_square > MAX_NOT_SQUARE * self.num_images

    @property
    def _bounds(self) -> tuple[float, float]:
        num = max(1, self.num_images)
        return MIN_FACE / (1 + _NOISE / num) ** 0.5, MIN_EYES - _SCATTER / num**0.5

    def __str__(self) -> str:
        if not self.is_judged:
            return f"not judged, {MIN_SAMPLE} readable images are needed"
        if self._is_stretched:
            return f"not aligned: {self.num_not_square} of {self.num_images} images looked at are not square"
        face, eyes = self._bounds
        return (
            f"{'probably not' if self.is_suspect else 'looks'} aligned: of {self.num_images} images the average face "
            f"fits the template by {self.face:.2f} (usual: above {face:.2f}), the eyes by {self.eyes:.2f} ({eyes:.2f})"
        )


def check_alignment(dataset: FaceDataset) -> Alignment:
    """Return what SAMPLE images, spread evenly over a set, say of its alignment; it takes a second."""
    indices = np.unique(np.linspace(0, len(dataset) - 1, SAMPLE).astype(np.int64))
    if not isinstance(dataset, ImageFolderDataset | RecordDataset):
        return measure_alignment([gray for gray in (_read_gray(dataset, int(i)) for i in indices) if gray is not None])
    payloads = [payload for portion in portions(dataset, indices) for payload in portion.read() if payload.data]
    sizes = [size for size in (image_size(payload.data) for payload in payloads) if size is not None]
    num_not_square = sum(width != height for width, height in sizes)
    if num_not_square > MAX_NOT_SQUARE * len(payloads):
        # Large photographs are not decoded: that would take half a minute.
        return Alignment(len(payloads), num_not_square)
    return measure_alignment([gray for gray in map(_gray, payloads) if gray is not None], num_not_square)


def warn_of_unaligned(dataset: FaceDataset) -> Alignment:
    """Look at a sample of a data set and say loudly if its faces do not lie where the template has them."""
    alignment = check_alignment(dataset)
    if alignment.is_suspect:
        verdict, _, reason = str(alignment).partition(":")
        logger.warning(
            "%s: THE FACES ARE %s:%s. Align them to ArcFace's five points at 112 x 112 first, or every number here is "
            "one of misplaced faces (docs/data.md)", dataset.paths.root, verdict.upper(), reason,
        )  # fmt: skip
    return alignment


def _read_gray(dataset: FaceDataset, index: int) -> Image | None:
    try:
        return np.asarray(cv2.cvtColor(dataset.read(index), cv2.COLOR_RGB2GRAY), np.uint8)
    except UnreadableImageError:
        return None


def measure_alignment(grays: list[Image], num_not_square: int = 0) -> Alignment:
    """Return what gray images uint8 [112, 112] say of their alignment."""
    if not grays:
        return Alignment(0, num_not_square)
    flat = np.stack([flatten(gray) for gray in grays])
    sketch = _sketch()
    strips = _centered(flat[:, *_STRIP])
    energy = float(np.sqrt((strips**2).sum(axis=1).mean())) + 1e-9
    eyes = float(strips.mean(axis=0) @ _unit(sketch[None, *_STRIP])) / energy
    face = float(_unit(flat.mean(axis=0)[None]) @ _unit(sketch[None]))
    return Alignment(len(grays), num_not_square, face, eyes)


def flatten(gray: Image) -> Array:
    """Return float32 [56, 56] in [-2.5, 2.5]: deviations from the local mean in local standard deviations."""
    small = cv2.resize(gray, (_SMALL, _SMALL), interpolation=cv2.INTER_AREA).astype(np.float32)
    difference = small - cv2.blur(small, (_WINDOW, _WINDOW))
    # Six levels more, so that noise in an even area stays small.
    spread = np.sqrt(cv2.blur(difference * difference, (_WINDOW, _WINDOW))) + 6
    return np.clip(difference / spread, -2.5, 2.5)


@cache
def _sketch() -> Array:
    """Return float32 [56, 56]: what is dark (below 0) and bright in a face at the template's places."""
    left, right, _, left_corner, right_corner = TEMPLATE
    across, down = np.eye(2)
    middle, mouth = (left + right) / 2, (left_corner + right_corner) / 2
    spots = (
        (left, (7, 4), -1.0), (right, (7, 4), -1.0), (mouth, (10, 3), -0.7), (middle + down * 2, (4, 6), 0.8),
        (left - across + down * 17, (7, 5), 0.6), (right + across + down * 17, (7, 5), 0.6),
    )  # fmt: skip
    y, x = np.mgrid[:_SMALL, :_SMALL] * 2 + 0.5
    blobs = (
        weight * np.exp(-((x - at[0]) ** 2) / (2 * size[0] ** 2) - (y - at[1]) ** 2 / (2 * size[1] ** 2))
        for at, size, weight in spots
    )
    return np.sum(list(blobs), axis=0, dtype=np.float32)


def _centered(images: Array) -> Array:
    """Return [N, P] pixels of images [N, H, W], with mean 0 each."""
    pixels = images.reshape(len(images), -1)
    return pixels - pixels.mean(axis=1, keepdims=True)


def _unit(image: Array) -> Array:
    """Return [P] pixels of one image [1, H, W], with mean 0 and length 1."""
    pixels = _centered(image)[0]
    return pixels / (np.linalg.norm(pixels) + 1e-9)


def _gray(payload: Payload) -> Image | None:
    image, _ = decode_payload(payload)
    return None if image is None else np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), np.uint8)
