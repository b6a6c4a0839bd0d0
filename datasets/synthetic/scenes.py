"""Synthetic photographs of many faces: heads at all sizes, turned, covered, before and behind things and each other.

A scene is a pure function of seed, stream and index. Nothing in it comes from a real person.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from datasets.synthetic.backgrounds import background, foreground
from datasets.synthetic.canvas import Image
from datasets.synthetic.parameters import sample_nuisance
from datasets.synthetic.prepare import stream_identity, stream_rng
from datasets.synthetic.renderer import HEAD_BORDER, HEAD_SIZE, Head, render_head
from transforms.align import moved
from transforms.detection.faces import FaceBoxes, face_boxes
from transforms.landmarks import IMAGE_SIZE
from transforms.occluders import OCCLUDERS

#: Part of the cache's name: raise it whenever a pixel of a scene changes.
SCENES_VERSION = 1
#: Heads that the scenes of a stream are made of: to draw one takes longer than a scene.
NUM_HEADS: Final = 512
LEAST_FACE: Final = 8.0  # side in pixels of a square as large as the face's box
#: Share of a face that may be hidden before it is marked as ignored.
MAX_HIDDEN: Final = 0.85
NOTHING: Final = "none"

_OCCLUDED = 0.4  # of the heads wear or hold something
_MAX_FACES = 12
_TRIES = 12
_MIDDLE = slice(HEAD_BORDER, HEAD_BORDER + IMAGE_SIZE)
_REACH = 9  # pixels that cloth beyond the crop goes on outside the head

Floats = NDArray[np.float32]
Matrix = NDArray[np.float64]


class Scene(NamedTuple):
    """A synthetic photograph.

    Attributes:
        image: uint8 [S, S, 3] RGB.
        faces: boxes from hairline to chin, cut at the border; five points, NaN where outside; `hidden`, the share of
            the face that something else covers, that the person wears, or that is beyond the border; ignored where
            more than MAX_HIDDEN is hidden.
        occluders: of each face, what the person wears or holds: a key of OCCLUDERS, or "none".
    """

    image: Image
    faces: FaceBoxes
    occluders: tuple[str, ...]


class _Placed(NamedTuple):
    box: NDArray[np.float64]  # x1 y1 x2 y2, uncut
    points: NDArray[np.float64]
    seen: Floats  # [S, S], how much of each pixel is this face, without what covers it
    area: float  # of the face in pixels, all of it
    occluder: str


def render_scene(seed: int, index: int, stream: str = "train", size: int = 320) -> Scene:
    """Draw scene `index` of a stream.

    A scene has no face (8 %) or up to 12; a face's size is drawn from 8 pixels to three quarters of the scene, evenly
    on a logarithmic scale, its angle within 15 degrees (one sigma) of upright, for every fifth face within 90. Two of
    five wear or hold one of OCCLUDERS. Smaller ones stand behind.

    Args:
        seed: of everything, >= 0.
        index: >= 0.
        stream: name of the group of people: scenes of different streams share none, nor with other synthetic sets.
        size: side in pixels, >= 64.
    Raises:
        ValueError: if a number is out of its range.
    """
    if seed < 0 or index < 0 or size < 64:
        raise ValueError(f"render_scene: seed and index must be >= 0 and size >= 64, got {seed}, {index}, {size}")
    rng = stream_rng(seed, f"scenes-{stream}", 3, index)
    image: Floats = background(rng, size).astype(np.float32)
    number = 0 if rng.random() < 0.08 else min(_MAX_FACES, 1 + int(rng.poisson(2.2)))
    largest = max(2 * LEAST_FACE, 0.75 * size / np.sqrt(max(1, number)))
    sides = np.sort(np.exp(rng.uniform(np.log(LEAST_FACE), np.log(largest), number)))
    placed: list[_Placed] = []
    for side in sides.tolist():
        if rng.random() < 0.12:
            _cover(image, placed, *_as_layer(*foreground(rng, size)))
        _place_head(image, placed, rng, side, (seed, stream))
    return Scene(_photographed(image, rng), _faces(placed, size), tuple(face.occluder for face in placed))


@lru_cache(maxsize=NUM_HEADS)
def _head(seed: int, stream: str, number: int) -> tuple[Head, NDArray[np.float64]]:
    """Return a head of the stream and the hull of its face, [n, 2], pixel centers on integers."""
    nuisance = sample_nuisance(stream_rng(seed, f"scenes-{stream}", number, 1))
    head = render_head(stream_identity(seed, f"scenes-{stream}", number), nuisance)
    hull = cv2.convexHull(cv2.findNonZero((head.skin > 127).astype(np.uint8)))
    return head, np.asarray(hull, np.float64)[:, 0]


def _place_head(
    image: Floats, placed: list[_Placed], rng: np.random.Generator, side: float, people: tuple[int, str]
) -> None:
    """Draw a head at a random place where it hides no half of a face; where there is none, none."""
    size = len(image)
    head, hull = _head(*people, int(rng.integers(NUM_HEADS)))
    occluder = list(OCCLUDERS)[int(rng.integers(len(OCCLUDERS)))] if rng.random() < _OCCLUDED else NOTHING
    width, height = np.ptp(hull, axis=0) + 1
    scale = side / np.sqrt(width * height)
    angle = rng.normal(0, np.pi / 12) if rng.random() < 0.8 else rng.uniform(-np.pi / 2, np.pi / 2)
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    middle = (hull.min(axis=0) + hull.max(axis=0)) / 2
    for center in rng.uniform(0.02 * size, 0.98 * size, (_TRIES, 2)):
        matrix = np.concatenate([turn, (center - turn @ middle)[:, None]], axis=1)
        corners = moved(hull, matrix)
        # Edges of the outermost pixels, not their centers.
        box = np.concatenate([corners.min(axis=0) - scale / 2, corners.max(axis=0) + scale / 2]) + 0.5
        if all(_share_covered(face.box, box, scale) < 0.5 for face in placed):
            break
    else:
        return
    pixels, cover, seen = _covered_head(head, occluder, rng)
    gain = rng.uniform(0.7, 1.2)
    masks = np.stack([cover, head.skin, seen], axis=-1)
    colors, shares, corner = _warped(pixels, masks, matrix, scale)
    layer = np.zeros((size, size, 3), np.float32)
    flat = np.zeros((size, size, 2), np.float32)
    inside, source = _overlap(corner, colors.shape[:2], size)
    layer[inside] = colors[source] * gain
    flat[inside] = shares[source][..., [0, 2]]
    _draw_body(image, placed, rng, matrix)
    _cover(image, placed, layer, flat[..., 0])
    points = moved(head.points, matrix) + 0.5
    placed.append(_Placed(box, points, flat[..., 1].copy(), float(shares[..., 1].sum()), occluder))


def _covered_head(head: Head, occluder: str, rng: np.random.Generator) -> tuple[Image, Image, Image]:
    """Return pixels, cover and visible skin of a head behind an occluder."""
    if occluder == NOTHING:
        return head.image, head.cover, head.skin
    view = OCCLUDERS[occluder](head.image[_MIDDLE, _MIDDLE], rng)
    wide = ((HEAD_BORDER, HEAD_BORDER), (HEAD_BORDER, HEAD_BORDER))
    pixels = np.pad(view.image, (*wide, (0, 0)), mode="edge")
    hides = np.pad(np.where(view.visibility > 0, np.uint8(0), np.uint8(255)), wide, mode="edge")
    # Beyond the crop cloth goes on over the head and a little around it, not to the end of the canvas.
    near = np.array(cv2.dilate(head.cover, np.ones((2 * _REACH + 1, 2 * _REACH + 1), np.uint8)), np.uint8)
    near[_MIDDLE, _MIDDLE] = 255
    hides = np.minimum(hides, near)
    image = np.where(hides[..., None] > 127, pixels, head.image)
    image[_MIDDLE, _MIDDLE] = view.image
    return image, np.maximum(head.cover, hides), np.minimum(head.skin, 255 - hides)


def _warped(pixels: Image, masks: Image, matrix: Matrix, scale: float) -> tuple[Floats, Floats, NDArray[np.int64]]:
    """Return a head as the scene shows it, its masks in [0, 1], and where in the scene its corner (x, y) lies.

    Heads that shrink to less than half are halved by area averages first: bilinear samples would alias.
    """
    size, factor = HEAD_SIZE, 1.0
    while scale / factor <= 0.5 and size % 2 == 0:
        size, factor = size // 2, factor / 2
    if factor < 1:
        pixels, masks = (
            np.asarray(cv2.resize(part, (size, size), interpolation=cv2.INTER_AREA), np.uint8)
            for part in (pixels, masks)
        )
    # Pixel x of the smaller image is x / factor + (1 / factor - 1) / 2 of the larger one.
    smaller = matrix.copy()
    smaller[:, 2] += matrix[:, :2].sum(axis=1) * (1 / factor - 1) / 2
    smaller[:, :2] /= factor
    ends = moved(np.array([[-1, -1], [size, -1], [size, size], [-1, size]]), smaller)
    corner = np.floor(ends.min(axis=0)).astype(np.int64)
    width, height = (np.ceil(ends.max(axis=0)).astype(np.int64) - corner + 1).tolist()
    smaller[:, 2] -= corner
    colors = cv2.warpAffine(pixels, smaller, (width, height), borderMode=cv2.BORDER_REPLICATE)
    shares = cv2.warpAffine(masks, smaller, (width, height))
    return colors.astype(np.float32), np.asarray(shares, np.float32) / np.float32(255), corner


def _overlap(
    corner: NDArray[np.int64], shape: tuple[int, ...], size: int
) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Return rows and columns of the scene that a layer lies on, and those of the layer."""
    (left, top), (height, width) = corner.tolist(), shape[:2]
    x1, y1, x2, y2 = max(0, left), max(0, top), min(size, left + width), min(size, top + height)
    x2, y2 = max(x1, x2), max(y1, y2)
    return (slice(y1, y2), slice(x1, x2)), (slice(y1 - top, y2 - top), slice(x1 - left, x2 - left))


def _draw_body(image: Floats, placed: list[_Placed], rng: np.random.Generator, matrix: Matrix) -> None:
    """Draw shoulders in one color below a head's neck."""
    shoulders = np.array([[38, 128], [74, 128], [118, 146], [132, 230], [-20, 230], [-6, 146]], np.float64)
    points = moved(shoulders + HEAD_BORDER, matrix)
    cover = np.zeros(image.shape[:2], np.uint8)
    cv2.fillPoly(cover, [np.rint(points * 16).astype(np.int32)], 255, cv2.LINE_AA, 4)
    color = np.clip(rng.uniform(0, 255, 3), 10, 245)
    _cover(image, placed, *_as_layer(np.broadcast_to(color, image.shape), cover))


def _as_layer(colors: NDArray[np.generic], cover: Image) -> tuple[Floats, Floats]:
    return np.asarray(colors, np.float32), cover.astype(np.float32) / np.float32(255)


def _cover(image: Floats, placed: list[_Placed], colors: Floats, share: Floats) -> None:
    """Put a layer before the scene, and note what it hides of faces that are there."""
    image += (colors - image) * share[..., None]
    for face in placed:
        face.seen[:] *= 1 - share


def _share_covered(face: NDArray[np.float64], box: NDArray[np.float64], scale: float) -> float:
    """Return about which share of a face's box a nearer head with its shoulders would cover."""
    head = box + np.array([-20, -30, 20, 90]) * scale
    common = np.maximum(np.minimum(face[2:], head[2:]) - np.maximum(face[:2], head[:2]), 0).prod()
    return float(common / (face[2:] - face[:2]).prod())


def _photographed(image: Floats, rng: np.random.Generator) -> Image:
    """Return what a camera takes of the scene: contrast, focus, noise."""
    contrast, light = rng.uniform(0.75, 1.2), rng.uniform(-25, 25)
    image = (image - 128) * np.float32(contrast) + np.float32(128 + light)
    if (sigma := rng.uniform(-1.0, 1.0)) > 0.3:
        image = cv2.GaussianBlur(image, (0, 0), sigma).astype(np.float32, copy=False)
    noise = rng.standard_normal(image.shape[:2], np.float32) * np.float32(rng.uniform(0, 6))
    return np.clip(np.rint(image + noise[..., None]), 0, 255).astype(np.uint8)


def _faces(placed: list[_Placed], size: int) -> FaceBoxes:
    boxes = np.array([face.box for face in placed]).reshape(-1, 4)
    points = np.array([face.points for face in placed]).reshape(-1, 5, 2)
    points[((points < 0) | (points > size)).any(axis=2)] = np.nan
    hidden = np.array([np.clip(1 - face.seen.sum() / face.area, 0, 1) for face in placed])
    return face_boxes(boxes, points, hidden > MAX_HIDDEN, None, hidden).clipped(size, size)
