"""A hash of what an image looks like: few bits differ between copies of it, about half between strangers.

The 256 bits are the signs of the lowest coefficients of a discrete cosine transform, the constant one left out.

Reference: Zauner, "Implementation and Benchmarking of Perceptual Image Hash Functions", 2010, section 3.2.1 (the DCT
hash); more bits here, because aligned faces are alike.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from datasets.sample import Image

NUM_BITS = 256
_SIZE = 56
_SIDE = 16

Hashes = NDArray[np.uint64]


def perceptual_hash(gray: Image) -> Hashes:
    """Return the hash of a gray image uint8 [112, 112] as uint64 [4]."""
    small = cv2.resize(gray, (_SIZE, _SIZE), interpolation=cv2.INTER_AREA).astype(np.float32)
    coefficients = cv2.dct(small)
    # One of the next row takes the place of the constant.
    chosen = np.append(coefficients[:_SIDE, :_SIDE].ravel()[1:], coefficients[_SIDE, 0])
    return np.packbits(chosen > 0).view(np.uint64)


def distance(first: Hashes, second: Hashes) -> NDArray[np.int64]:
    """Return in how many bits hashes [..., 4] differ, [...]."""
    return np.bitwise_count(first ^ second).sum(axis=-1, dtype=np.int64)
