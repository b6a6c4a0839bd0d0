"""The committed templates and textures, read once, when first used."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

ASSETS: Final = Path(__file__).resolve().parents[2] / "assets"
TILE: Final = 128  # side of a texture file


@cache
def load_template(name: str) -> NDArray[np.uint8]:
    """Return the template assets/occluders/<name>.png as uint8 [240, 240, 4], read-only.

    Its colour channels are not colours but the shades of up to three materials, painted at run time; A is the coverage.
    """
    return _read_only(np.ascontiguousarray(_decode(ASSETS / "occluders" / f"{name}.png")[..., [2, 1, 0, 3]]))


@cache
def load_texture(name: str) -> NDArray[np.uint8]:
    """Return the seamless tile assets/textures/<name>.png, 4 x 4 times: uint8 [512, 512], read-only."""
    return _read_only(np.tile(_decode(ASSETS / "textures" / f"{name}.png"), (4, 4)))


def _decode(path: Path) -> NDArray[np.uint8]:
    image = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_UNCHANGED)
    if image is None:
        raise ValueError(f"assets: {path} is not a PNG image; draw it again with python -m transforms.draw_templates.")
    return np.asarray(image, np.uint8)


def _read_only(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    image.flags.writeable = False
    return image
