"""One photograph -> one aligned crop: where a face is looked for, in which order, which one is taken, and what is
refused.

docs/alignment.md has the figures that the order and the bounds follow.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import cv2
import numpy as np

from datasets.photos.detection import Array, Detection, Detector, Image
from datasets.photos.given_points import GivenPoints
from datasets.photos.views import Look, brought_back, view
from transforms import IMAGE_SIZE, align

ALIGNED, NO_FACE, CUT, DEGENERATE, CENTER, UNREADABLE = (
    *("aligned", "no face", "cut", "degenerate", "center", "unreadable"),
)
STATUSES = (ALIGNED, CENTER, NO_FACE, CUT, DEGENERATE, UNREADABLE)

# Detectors miss faces of more than about 500 pixels: photographs are looked at with at most this side first.
LONG_SIDE = 640
MIN_SIDE = 16  # pixels of the shorter side below which there is nothing to find
# Share of the crop that lies in the photograph: with less, much of the face is missing.
MIN_INSIDE = 0.4


LOOKS = (
    Look("as is"),
    Look("x2", scale=2.0),
    Look("padded 50 % and x2", scale=2.0, padding=0.25),
    Look("x0.5", scale=0.5),
    Look("turned by 90", turns=1),
    Look("turned by 180", turns=2),
    Look("turned by 270", turns=3),
    Look("threshold 0.3", threshold=0.3),
)
GIVEN = "given"  # the look of points that nobody looked for

Finder = Detector | GivenPoints  # what knows where a face is


class Aligned(NamedTuple):
    """What became of a photograph.

    Attributes:
        status: one of STATUSES; only `aligned`, and `center` where that was asked for, have a crop.
        crop: uint8 [size, size, 3] RGB or None.
        reason: why it is not aligned, or what is remarkable; "" where there is nothing to say.
        look: name of the look that found the face, GIVEN, or "".
        num_faces: how many faces that look found.
        score: the detector's for the face.
        box: float64 [4], x1, y1, x2, y2 in pixels of the photograph, turned as its orientation tag says; or None.
        points: float64 [5, 2] in the same pixels, or None.
        matrix: float64 [2, 3], photograph -> crop, or None.
        residual: distance of the five points to the template, root mean square in pixels of a crop of 112.
        inside: share of the crop that lies in the photograph.
    """

    status: str
    crop: Image | None = None
    reason: str = ""
    look: str = ""
    num_faces: int = 0
    score: float = 0.0
    box: Array | None = None
    points: Array | None = None
    matrix: Array | None = None
    residual: float = 0.0
    inside: float = 0.0


def align_with(finder: Finder, image: Image, size: int = IMAGE_SIZE, name: str = "", place: int = 0) -> Aligned:
    """Align a photograph by what a detector finds in it, or by the points that a table has of it.

    Args:
        finder: a detector, see `align_face`, or given points.
        image: uint8 [H, W, 3] RGB.
        size: side of the crop, a multiple of 112 or 128.
        name, place: of the photograph, for given points.
    """
    if not isinstance(finder, GivenPoints):
        return align_face(image, finder, size)
    points = finder.of(name, place, image.shape)
    if points is None:
        return Aligned(NO_FACE, reason=f"{finder.path.name} has no points of it")
    return align_points(image, points, size)


def align_face(image: Image, detector: Detector, size: int = IMAGE_SIZE) -> Aligned:
    """Find the face of a photograph and cut it out; see LOOKS for where it is looked for.

    Of several faces that one look finds, the one is taken that is large and near the center: the area minus twice the
    squared distance of the box's center is largest.

    Args:
        image: uint8 [H, W, 3] RGB.
        detector: see `Detector`.
        size: side of the crop, a multiple of 112 or 128.
    """
    height, width = image.shape[:2]
    if min(height, width) < MIN_SIDE:
        return Aligned(NO_FACE, reason=f"{width} x {height} pixels: too small to hold a face")
    refused: Aligned | None = None
    for look, seen, back in _views(image):
        found = detector.detect(seen, look.threshold)
        if not found:
            continue
        chosen = _central([brought_back(one, back) for one in found], image)
        result = align_points(image, chosen.points, size)
        result = result._replace(look=look.name, num_faces=len(found), score=chosen.score, box=chosen.box)
        if result.status == ALIGNED:
            return _remarked(result)
        refused = refused or result
    return refused or Aligned(NO_FACE, reason=f"no face found, {len(LOOKS)} ways of looking tried")


def first_look(image: Image, detector: Detector) -> list[Detection]:
    """Return the faces that the first look at a photograph finds, in its pixels, the surest first."""
    look, seen, back = next(_views(image), (None, image, np.eye(2, 3)))
    return [] if look is None else [brought_back(one, back) for one in detector.detect(seen)]


def align_points(image: Image, points: Array, size: int = IMAGE_SIZE) -> Aligned:
    """Cut out the face whose five points [5, 2] are known, or say why there is none."""
    try:
        matrix = align.fit_similarity(points, size)
    except ValueError as error:
        return Aligned(DEGENERATE, reason=str(error), look=GIVEN, num_faces=1)
    inside, residual = align.inside(matrix, image.shape, size), align.residual(points, matrix, size)
    result = Aligned(
        ALIGNED, None, "", GIVEN, 1, 1.0, _box_of(points), np.asarray(points, np.float64), matrix, residual, inside
    )
    if fault := align.fit_fault(points, matrix, size):
        return result._replace(status=DEGENERATE, reason=fault)
    if inside < MIN_INSIDE:
        return result._replace(status=CUT, reason=f"the face is cut by the border: {inside:.0%} of its crop is there")
    if not _all_within(points, image):
        return result._replace(status=CUT, reason="the face is cut by the border: not all of its five points are there")
    return result._replace(crop=align.warp(image, matrix, size))


def center_crop(image: Image, size: int = IMAGE_SIZE) -> Image:
    """Return the largest square in the middle of an image as uint8 [size, size, 3]."""
    height, width = image.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    method = cv2.INTER_AREA if side >= size else cv2.INTER_LINEAR
    middle = image[top : top + side, left : left + side]
    return np.asarray(cv2.resize(middle, (size, size), interpolation=method), np.uint8)


def _views(image: Image) -> Iterator[tuple[Look, Image, Array]]:
    """Yield each look, what it sees, and the matrix [2, 3] from there to the photograph."""
    longer = max(image.shape[:2])
    first = min(1.0, LONG_SIDE / longer)
    for look in LOOKS:
        # Twice the side is the most that is ever looked at, border included.
        scale = min(first * look.scale, 2 * LONG_SIDE / longer / (1 + 2 * look.padding))
        if min(image.shape[:2]) * scale >= MIN_SIDE:
            yield look, *view(image, look, scale)


def _central(found: list[Detection], image: Image) -> Detection:
    """Return the face that is large and near the center of the photograph."""
    center = np.array([image.shape[1], image.shape[0]]) / 2

    def weight(one: Detection) -> float:
        distance = (one.box[:2] + one.box[2:]) / 2 - center
        return float(np.prod(one.box[2:] - one.box[:2]) - 2 * distance @ distance)

    return max(found, key=weight)


def _remarked(result: Aligned) -> Aligned:
    """Say of several faces which one is there."""
    if result.num_faces == 1:
        return result
    return result._replace(reason=f"{result.num_faces} faces; the large one near the center is taken")


def _all_within(points: Array, image: Image) -> bool:
    return bool((points >= -0.5).all() and (points <= [image.shape[1] - 0.5, image.shape[0] - 0.5]).all())


def _box_of(points: Array) -> Array:
    return np.concatenate([np.min(points, axis=0), np.max(points, axis=0)]).astype(np.float64)
