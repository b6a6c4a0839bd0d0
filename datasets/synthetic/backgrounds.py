"""What synthetic scenes show besides faces: noise, shapes, textures, things that resemble a face, foregrounds."""

from __future__ import annotations

from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from datasets.synthetic.canvas import Image
from transforms.painting.palette import HAIR_TONES, SKIN_TONES

_OCTAVES: Final = ((3, 55.0), (9, 28.0), (33, 14.0))  # cells of noise and its height in gray levels


def background(rng: np.random.Generator, size: int) -> Image:
    """Return a background uint8 [size, size, 3] RGB: noise of three wavelengths, shapes, textures and distractors."""
    canvas = np.full((size, size, 3), rng.uniform(40, 215) + rng.uniform(-40, 40, 3), np.float32)
    chroma = rng.uniform(0.0, 0.7)
    for cells, height in _OCTAVES:
        noise = rng.normal(0, height * rng.uniform(0.3, 1.0), (cells, cells, 4)).astype(np.float32)
        mixed = noise[..., :1] + np.float32(chroma) * noise[..., 1:]
        canvas += cv2.resize(mixed, (size, size), interpolation=cv2.INTER_CUBIC)
    image = np.clip(canvas, 0, 255).astype(np.uint8)
    for _ in range(int(rng.integers(4, 22))):
        _draw_shape(image, rng)
    for _ in range(int(rng.integers(0, 4))):
        _draw_texture(image, rng)
    for _ in range(int(rng.integers(0, 5))):
        _draw_distractor(image, rng)
    if (sigma := rng.uniform(-1.0, 2.0)) > 0.3:
        image = np.asarray(cv2.GaussianBlur(image, (0, 0), sigma), np.uint8)
    return image


def foreground(rng: np.random.Generator, size: int) -> tuple[Image, NDArray[np.uint8]]:
    """Return something that stands before faces: its colors uint8 [size, size, 3], and what it covers, 255 = all."""
    image, cover = np.zeros((size, size, 3), np.uint8), np.zeros((size, size), np.uint8)
    image[:] = _color(rng)
    _draw_texture(image, rng, (0, 0, size, size))
    ends = rng.uniform(0, size, (2, 2)).astype(int).tolist()
    if rng.random() < 0.6:  # a pole, a rail, a branch
        cv2.line(cover, ends[0], ends[1], 255, int(rng.uniform(0.01, 0.06) * size) + 1, cv2.LINE_AA)
    else:
        axes = (rng.uniform(0.03, 0.14, 2) * size).astype(int).tolist()
        cv2.ellipse(cover, ends[0], axes, float(rng.uniform(0, 180)), 0, 360, 255, -1, cv2.LINE_AA)
    return image, cover


def _color(rng: np.random.Generator) -> tuple[float, ...]:
    """Draw a color: a third of the time of skin or hair, so that color alone tells no face."""
    if rng.random() < 0.33:
        tones = SKIN_TONES if rng.random() < 0.7 else HAIR_TONES
        base = np.array(tones[int(rng.integers(len(tones)))]) * rng.uniform(0.5, 1.1)
    else:
        base = rng.uniform(0, 255, 3)
    return tuple(np.clip(base, 0, 255).tolist())


def _draw_shape(image: Image, rng: np.random.Generator) -> None:
    size = len(image)
    kind, color = int(rng.integers(4)), _color(rng)
    (x, y), spread = rng.uniform(0, size, 2), size * np.exp(rng.uniform(np.log(0.03), np.log(0.5)))
    if kind == 0:
        corners = (np.array([x, y]) + rng.uniform(-spread, spread, (2, 2))).astype(int).tolist()
        cv2.rectangle(image, corners[0], corners[1], color, -1)
    elif kind == 1:
        axes = (rng.uniform(0.2, 1.0, 2) * spread + 1).astype(int).tolist()
        cv2.ellipse(image, (int(x), int(y)), axes, float(rng.uniform(0, 180)), 0, 360, color, -1, cv2.LINE_AA)
    elif kind == 2:
        points = (np.array([x, y]) + rng.uniform(-spread, spread, (int(rng.integers(3, 7)), 2))).astype(np.int32)
        cv2.fillPoly(image, [points], color, cv2.LINE_AA)
    else:
        ends = rng.uniform(0, size, (2, 2)).astype(int).tolist()
        cv2.line(image, ends[0], ends[1], color, int(rng.integers(1, 8)), cv2.LINE_AA)


def _draw_texture(image: Image, rng: np.random.Generator, box: tuple[int, int, int, int] | None = None) -> None:
    """Lay stripes, checks or noise over a box x1 y1 x2 y2 of the image; None: one that is drawn."""
    if box is None:
        x1, y1 = rng.integers(0, len(image) - 8, 2).tolist()
        x2, y2 = (np.array([x1, y1]) + rng.integers(8, len(image) // 2, 2)).tolist()
        box = (x1, y1, x2, y2)
    part = image[box[1] : box[3], box[0] : box[2]]
    rows, columns = np.mgrid[: part.shape[0], : part.shape[1]].astype(np.float32)
    angle, period = rng.uniform(0, np.pi), rng.uniform(3, 24)
    along = np.sin((np.cos(angle) * columns + np.sin(angle) * rows) * np.float32(2 * np.pi / period))
    across = np.sin((np.cos(angle) * rows - np.sin(angle) * columns) * np.float32(2 * np.pi / period))
    kind = int(rng.integers(3))
    pattern = (along, np.sign(along * across), rng.standard_normal(part.shape[:2], np.float32) / 2)[kind]
    part[:] = np.clip(part + rng.uniform(10, 60) * pattern[..., None], 0, 255).astype(np.uint8)


def _draw_distractor(image: Image, rng: np.random.Generator) -> None:
    """Draw what resembles a face and is none: an oval of skin or cloth with dark spots in no face's order, or rings."""
    size = len(image)
    length = size * np.exp(rng.uniform(np.log(0.02), np.log(0.25)))
    center, angle = rng.uniform(0, size, 2), float(rng.uniform(0, 180))
    axes = (np.array([0.5 * rng.uniform(0.6, 0.9), 0.5]) * length + 1).astype(int).tolist()
    cv2.ellipse(image, center.astype(int).tolist(), axes, angle, 0, 360, _color(rng), -1, cv2.LINE_AA)
    for _ in range(int(rng.integers(0, 5))):
        spot = (center + rng.uniform(-0.25, 0.25, 2) * length).astype(int).tolist()
        radius = int(rng.uniform(0.03, 0.12) * length) + 1
        thickness = -1 if rng.random() < 0.7 else 1
        cv2.circle(image, spot, radius, tuple(rng.uniform(0, 110, 3).tolist()), thickness, cv2.LINE_AA)
