"""The committed templates and textures, read once, when first used."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Final, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

ASSETS: Final = Path(__file__).resolve().parents[2] / "assets"
TILE: Final = 128  # side of a texture file
_LIGHT_KNOTS: Final = 5
_LIGHT_CHANGE: Final = 0.2


class Relief(NamedTuple):
    """How a surface modulates light: by a texture, so strongly (0 = not at all)."""

    texture: str
    depth: float


@cache
def load_template(name: str) -> NDArray[np.uint8]:
    """Return the template assets/occluders/<name>.png as uint8 [240, 240, 4], read-only.

    Its color channels are not colors but the shades of up to three materials, painted at run time; A is the coverage.
    """
    return read_only(np.ascontiguousarray(_decode(ASSETS / "occluders" / f"{name}.png")[..., [2, 1, 0, 3]]))


@cache
def load_texture(name: str) -> NDArray[np.uint8]:
    """Return the seamless tile assets/textures/<name>.png, 4 x 4 times: uint8 [512, 512], read-only."""
    return read_only(np.tile(_decode(ASSETS / "textures" / f"{name}.png"), (4, 4)))


@cache
def load_relief(relief: Relief) -> NDArray[np.uint8]:
    """Return a sheet of a texture in uneven light, as a shading about 128: uint8 [384, 384, 3], read-only.

    Between points 112 pixels apart the light changes by a fifth; which way depends on the part of the sheet.
    """
    side = 3 * TILE
    texture = load_texture(relief.texture)[:side, :side].astype(np.float32)
    knots = np.random.default_rng(0).uniform(-1, 1, (_LIGHT_KNOTS, _LIGHT_KNOTS)).astype(np.float32)
    light = 1 + _LIGHT_CHANGE * cv2.resize(knots, (side, side), interpolation=cv2.INTER_CUBIC)
    shading = light * (128 + relief.depth * (texture - 128))
    return read_only(np.repeat(np.rint(shading).clip(0, 255).astype(np.uint8)[..., None], 3, axis=2))


def _decode(path: Path) -> NDArray[np.uint8]:
    image = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_UNCHANGED)
    if image is None:
        raise ValueError(f"assets: {path} is not a PNG image; draw it again with python -m tools.draw_templates.")
    return np.asarray(image, np.uint8)


def read_only(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the image itself, which nobody can change any more: many views share it."""
    image.flags.writeable = False
    return image
