"""How far the five points of found faces lie from the true ones."""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from evaluation.detection.boxes import Floats

#: An error above this share of the length counts as a failure.
FAILURE: Final = 0.1


class LandmarkErrors(NamedTuple):
    """Distances between points, divided by a length of the face (NME).

    Attributes:
        mean, median, p95: over faces, each the mean over its labeled points.
        by_point: float64 [5], mean over faces for left eye, right eye, nose, left and right mouth corner as the viewer
            sees them; NaN where none is labeled.
        failures: share of faces above FAILURE.
        num_faces: with at least one labeled point.
        num_unlabeled: faces without any, left out.
    """

    mean: float
    median: float
    p95: float
    by_point: Floats
    failures: float
    num_faces: int
    num_unlabeled: int


def landmark_errors(predicted: ArrayLike, true: ArrayLike, lengths: ArrayLike) -> LandmarkErrors:
    """Return the errors of the points of found faces.

    Args:
        predicted: [N, 5, 2] in pixels.
        true: [N, 5, 2], NaN where a point is not labeled.
        lengths: [N], what distances are divided by: `interocular(true)`, which profiles make small, or
            `face_sizes(boxes)`, which suits them. Say which: the figures differ by a factor of two to three.
    Raises:
        ValueError: if shapes disagree, no point is labeled, a predicted point is not finite, or the length of a face
            with labeled points is not above 0.
    """
    found, wanted = np.asarray(predicted, np.float64), np.asarray(true, np.float64)
    length = np.asarray(lengths, np.float64)
    if found.ndim != 3 or found.shape[1:] != (5, 2) or wanted.shape != found.shape or length.shape != found.shape[:1]:
        raise ValueError(
            f"landmark_errors: [N, 5, 2] twice and [N] are needed, got {found.shape}, {wanted.shape}, {length.shape}"
        )
    if not np.isfinite(found).all():
        raise ValueError("landmark_errors: a predicted point is not finite; find the image or layer that produced it")
    labeled = ~np.isnan(wanted).any(axis=2)
    used = np.any(labeled, axis=1)
    if not used.any():
        raise ValueError("landmark_errors: no point is labeled, so there is no error to measure")
    if not (length[used] > 0).all():
        raise ValueError("landmark_errors: the length of a face is 0 or unknown; divide by the size of its box")
    distance = np.linalg.norm(found - wanted, axis=2)[used] / length[used, None]
    faces = np.nanmean(distance, axis=1)
    count = labeled.sum(axis=0)
    by_point = np.divide(np.nansum(distance, axis=0), count, out=np.full(5, np.nan), where=count > 0)
    return LandmarkErrors(
        float(faces.mean()),
        float(np.median(faces)),
        float(np.quantile(faces, 0.95)),
        by_point,
        float((faces > FAILURE).mean()),
        int(used.sum()),
        int((~used).sum()),
    )


def interocular(points: ArrayLike) -> Floats:
    """Return the distance between both eyes, float64 [N], of points [N, 5, 2]; NaN where an eye is not labeled."""
    array = np.asarray(points, np.float64)
    return np.linalg.norm(array[:, 0] - array[:, 1], axis=1)
