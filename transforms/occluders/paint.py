"""From a warped template to a view: colours, pattern, folds, light, soft edges, and the mask that belongs to them."""

from __future__ import annotations

from functools import cache
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from transforms.landmarks import IMAGE_SIZE
from transforms.occluders.assets import TILE, load_texture
from transforms.view import Image, Mask, View

OPAQUE: Final = 127  # an alpha above this, more than half of 255, occludes
_MAX_GRADIENT: Final = 0.22  # the light at the image's border against its centre
_LUMA: Final = np.array([[0.299, 0.587, 0.114]] * 3)

Layers = NDArray[np.uint8]


def paint(
    image: Image,
    layers: Layers,
    colours: NDArray[np.float64],
    rng: np.random.Generator,
    texture: str = "folds",
    depth: float = 0.25,
) -> View:
    """Return `image` behind a painted template.

    Args:
        image: uint8 [112, 112, 3], RGB.
        layers: uint8 [112, 112, 4], contiguous: the shades of three materials, and alpha.
        colours: floating [3, 3], one RGB row for each material, 255 = full; the painted values are clipped.
        rng: draws gradient (2), gain, texture place (2), edge softness, in this order.
        texture: the texture that modulates the shade.
        depth: how strongly; 0 = flat.
    Returns:
        A view whose image differs from `image` only where alpha > 0 and whose visibility is 0 where alpha > 127.
        A grey image stays grey.
    """
    light = draw_light(rng)
    light *= draw_relief(rng, texture, depth)
    alpha = soften(np.asarray(cv2.extractChannel(layers, 3), np.uint8), rng)
    matrix = (_LUMA @ colours.T if is_grey(image) else colours.T) / 255.0
    painted = cv2.transform(cv2.cvtColor(layers, cv2.COLOR_BGRA2BGR), matrix)
    return blend(image, np.asarray(cv2.multiply(painted, light, dtype=cv2.CV_32F), np.float32), alpha)


def blend(image: Image, painted: NDArray[np.float32], alpha: Mask) -> View:
    """Return `painted` [112, 112, 3], which is overwritten, over `image` by `alpha` uint8 [112, 112]."""
    weight = cv2.merge([alpha, alpha, alpha]).astype(np.float32)
    weight *= np.float32(1 / 255)
    painted -= image
    painted *= weight
    mixed = np.asarray(cv2.add(image, painted, dtype=cv2.CV_8U), np.uint8)
    return View(mixed, (alpha <= OPAQUE).astype(np.uint8))


def draw_light(rng: np.random.Generator) -> NDArray[np.float32]:
    """Draw a light that changes linearly over the image: float32 [112, 112, 3] around 1. Draws: gradient (2), gain."""
    across, down = rng.uniform(-_MAX_GRADIENT, _MAX_GRADIENT, 2)
    ramp_x, ramp_y = _ramps()
    return np.asarray(cv2.addWeighted(ramp_x, across, ramp_y, down, rng.uniform(0.85, 1.08)), np.float32)


def draw_relief(rng: np.random.Generator, texture: str, depth: float) -> NDArray[np.float32]:
    """Draw a shading by a random part of a texture: float32 [112, 112, 3] around 1. Draws: place (2)."""
    sheet = load_texture(texture)
    column, row = rng.integers(0, TILE, 2)
    part = sheet[row : row + IMAGE_SIZE, column : column + IMAGE_SIZE]
    relief = cv2.addWeighted(part, depth / 128, part, 0, 1 - depth, dtype=cv2.CV_32F)
    return np.asarray(cv2.merge([relief, relief, relief]), np.float32)


def soften(alpha: Mask, rng: np.random.Generator) -> Mask:
    """Return `alpha` with an edge between sharp and 1.2 pixels soft. Draws: softness."""
    softness = rng.uniform(0.3, 1.2)
    return np.asarray(cv2.GaussianBlur(alpha, (3, 3), softness, borderType=cv2.BORDER_REPLICATE), np.uint8)


def apply_pattern(layers: Layers, pattern: Mask) -> None:
    """Give the share `pattern` / 255 of the first material to the second, in place."""
    first, second, third, alpha = cv2.split(layers)
    share = cv2.multiply(first, pattern, scale=1 / 255)
    cv2.merge([cv2.subtract(first, share), cv2.add(second, share), third, alpha], layers)


def is_grey(image: Image) -> bool:
    """Return whether the image has no colour, judged by every eighth pixel."""
    sample = image[::8, ::8]
    return bool((sample[..., 0] == sample[..., 1]).all() and (sample[..., 1] == sample[..., 2]).all())


@cache
def _ramps() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    axis = np.linspace(-1.0, 1.0, IMAGE_SIZE, dtype=np.float32)
    x, y = (np.repeat(plane[..., None], 3, axis=2) for plane in np.meshgrid(axis, axis))
    x.flags.writeable = y.flags.writeable = False
    return x, y
