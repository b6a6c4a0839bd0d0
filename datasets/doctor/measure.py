"""What the doctor keeps of every image, 63 bytes, computed in processes of their own where there are several jobs."""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from datasets.doctor.alignment import Discriminants, features_of
from datasets.doctor.perceptual_hash import perceptual_hash
from datasets.doctor.skin import red_minus_blue
from datasets.faces.image_header import image_size
from datasets.payloads import Portion, decode_payload
from datasets.sample import Image

# Of `warmth`: a gray image has no color of skin.
GRAY = -1000

#: One image: hashes of its bytes, its pixels and its looks; the size in its header, 0 where that does not tell; red
#: minus blue of its skin or GRAY; its score in either half of the set, see `Discriminants`; whether it can be read.
ROW = np.dtype(
    [
        ("bytes", "u8"),
        ("pixels", "u8"),
        ("looks", "u8", 4),
        ("size", "u2", 2),
        ("warmth", "i2"),
        ("alignment", "f4", 2),
        ("readable", "?"),
    ]
)


class Measured(NamedTuple):
    """What was found out about some images.

    Attributes:
        rows: ROW [N].
        unreadable: (position in rows, location, reason) of those that cannot be read.
    """

    rows: NDArray[np.void]
    unreadable: list[tuple[int, str, str]]


def measure_portion(portion: Portion, model: Discriminants | None) -> Measured:
    """Decode and measure images of a data set; without a model their alignment is 0."""
    payloads = list(portion.read())
    rows, unreadable = np.zeros(len(payloads), ROW), []
    for place, payload in enumerate(payloads):
        image, reason = decode_payload(payload)
        if image is None:
            unreadable.append((place, payload.location, reason))
            continue
        _fill(rows[place], image, model)
        rows[place]["bytes"] = _digest(payload.data)
        rows[place]["size"] = np.minimum(image_size(payload.data) or (0, 0), np.iinfo(np.uint16).max)
    return Measured(rows, unreadable)


def measure_images(images: Image, model: Discriminants | None) -> Measured:
    """Measure images uint8 [N, 112, 112, 3] RGB of a benchmark set; they have no bytes and no size."""
    rows = np.zeros(len(images), ROW)
    for row, image in zip(rows, images, strict=True):
        _fill(row, np.ascontiguousarray(image), model)
    return Measured(rows, [])


def _fill(row: np.void, image: Image, model: Discriminants | None) -> None:
    gray = np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), np.uint8)
    row["pixels"] = _digest(image.tobytes())
    row["looks"] = perceptual_hash(gray)
    warmth = red_minus_blue(image)
    row["warmth"] = GRAY if warmth is None else warmth
    if model is not None:
        row["alignment"] = model.score(features_of(gray)[None])[0]
    row["readable"] = True


def _digest(data: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")
