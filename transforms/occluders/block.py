"""A random block: what no template foresees."""

from __future__ import annotations

import math
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from transforms.landmarks import IMAGE_SIZE
from transforms.occluders.paint import blend, draw_light, draw_relief, is_grey
from transforms.occluders.palette import Colour, fabric_colour, hair_colour, skin_colour
from transforms.occluders.wear import draw_pattern
from transforms.view import Image, Mask, View, check_image

_AREAS: Final = (0.06, 0.30)  # of the rectangle, in images
_ASPECTS: Final = (0.4, 2.5)
_FRACTION_BITS: Final = 4
Surface = NDArray[np.float32]


def block(image: Image, rng: np.random.Generator) -> View:
    """Cover a turned rectangle of 6 to 30 % of the image, or the ellipse inside it, anywhere in the image.

    Its surface is noise, one flat colour, skin, hair or a printed fabric.
    Draws: shape, then the surface.
    """
    check_image(image, "block")
    alpha = _shape(rng)
    surface = _SURFACES[rng.integers(len(_SURFACES))](image, rng)
    if is_grey(image):
        luminance = cv2.cvtColor(surface, cv2.COLOR_RGB2GRAY)
        surface = np.asarray(cv2.cvtColor(luminance, cv2.COLOR_GRAY2RGB), np.float32)
    return blend(image, surface, alpha)


def _shape(rng: np.random.Generator) -> Mask:
    """Draw an anti-aliased shape: uint8 [112, 112]. Draws: area, aspect, angle, place (2), rectangle or ellipse."""
    area = IMAGE_SIZE**2 * rng.uniform(*_AREAS)
    aspect = math.exp(rng.uniform(math.log(_ASPECTS[0]), math.log(_ASPECTS[1])))
    width, height = math.sqrt(area * aspect), math.sqrt(area / aspect)
    angle = rng.uniform(-90.0, 90.0)
    cos, sin = abs(math.cos(math.radians(angle))), abs(math.sin(math.radians(angle)))
    reach = 0.5 * np.array([width * cos + height * sin, width * sin + height * cos])
    margin = np.minimum(reach, IMAGE_SIZE / 2 - 1)
    centre = rng.uniform(margin, IMAGE_SIZE - 1 - margin)
    box = (tuple(centre.tolist()), (width, height), angle)
    alpha = np.zeros((IMAGE_SIZE, IMAGE_SIZE), np.uint8)
    if rng.random() < 0.7:
        vertices = np.rint(cv2.boxPoints(box) * 2**_FRACTION_BITS).astype(np.int32)
        cv2.fillConvexPoly(alpha, vertices, 255, cv2.LINE_AA, _FRACTION_BITS)
    else:
        cv2.ellipse(alpha, box, 255, -1, cv2.LINE_AA)
    return alpha


def _noise(image: Image, rng: np.random.Generator) -> Surface:
    side = int(rng.integers(8, IMAGE_SIZE + 1))
    noise = np.frombuffer(rng.bytes(side * side * 3), np.uint8).reshape(side, side, 3)
    return cv2.resize(noise, (IMAGE_SIZE, IMAGE_SIZE), interpolation=cv2.INTER_NEAREST).astype(np.float32)


def _flat(image: Image, rng: np.random.Generator) -> Surface:
    return _filled(fabric_colour(rng))


def _skin(image: Image, rng: np.random.Generator) -> Surface:
    return _textured(skin_colour(image, rng), rng, "grain", 0.25)


def _hair(image: Image, rng: np.random.Generator) -> Surface:
    return _textured(hair_colour(image, rng), rng, "strands", 0.5)


def _fabric(image: Image, rng: np.random.Generator) -> Surface:
    pattern = draw_pattern(rng)
    ground, ink = fabric_colour(rng), fabric_colour(rng)
    ramp = np.linspace(ground, ink, 256)[None].astype(np.float32)
    return np.asarray(cv2.LUT(cv2.merge([pattern, pattern, pattern]), ramp)) * draw_relief(rng, "folds", 0.3)


def _textured(colour: Colour, rng: np.random.Generator, texture: str, depth: float) -> Surface:
    surface = _filled(colour)
    surface *= draw_relief(rng, texture, depth)
    surface *= draw_light(rng)
    return surface


def _filled(colour: Colour) -> Surface:
    return np.full((IMAGE_SIZE, IMAGE_SIZE, 3), colour, np.float32)


_SURFACES: Final = (_noise, _flat, _skin, _hair, _fabric)
