"""Which images of a set have their face elsewhere than the others, judged from pixels alone.

Copies of a sample are shifted, turned and scaled, and a linear discriminant learns to tell them from the images as they
are. Where faces have one place this is easy, and an image that looks more like the moved copies is suspected to be
unaligned itself. Where they have none, there is nothing to learn. Whether the place is the template's is another
question, see `datasets.faces.alignment`: that judges a set, and a few turned faces in it do not change what it says.
To compare each image with the set's average is simpler and not enough: of the 19 turned faces of
`test_turned_faces_are_suspected` it finds 7, and suspects 6 of the 220 images as they are.

What it cannot tell: shifts below 8 pixels and turns below 15 degrees in single images; anything of sets below
MIN_SAMPLE images. Single images are missed and suspected wrongly, at rates that depend on the set: of 800 synthetic
faces with 5 % moved ones, 81 % of these are found and 1.1 % of the others suspected; with 15 %, 67 % and 0.3 %; with
20 %, 29 % and 0.3 %; with 30 % hardly one. Profiles and covered faces are suspected more often than others.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from datasets.faces.alignment import flatten
from datasets.sample import Image
from transforms.landmarks import IMAGE_SIZE, TEMPLATE

MIN_SAMPLE = 200
# Standard deviations below the median of the sample at which an image is suspected.
SUSPECT_BELOW = -2.5
# Synthetic faces have 0.98 to 0.99, with 15 % of them moved 0.93; all jittered by up to 4 pixels 0.96, by up to 8 0.87.
MIN_CONSISTENCY = 0.88

_COPIES = 3
_ROUNDS = 3
_SHRINKAGE = 1.0
_FEATURES = IMAGE_SIZE // 4

Array = NDArray[np.float32]


class Discriminants(NamedTuple):
    """What tells the images of a set from moved copies.

    Attributes:
        weights: float32 [2, 784], one row for each half of the images, learnt from the other half.
        medians, spreads: float32 [2], of the scores of each half.
        consistency: share of (image, moved copy) where the image has the higher score; 0.5 is chance.
    """

    weights: Array
    medians: Array
    spreads: Array
    consistency: float

    @property
    def is_consistent(self) -> bool:
        """Whether the faces are so much in one place that single images can be judged."""
        return self.consistency >= MIN_CONSISTENCY

    def score(self, features: Array) -> Array:
        """Return how well images lie where the set's do, [N, 2] for features [N, 784], a column for each half.

        An image of the set is judged by the column of its own half (see `half_of`), any other by the mean; 0 is usual.
        """
        return (features @ self.weights.T - self.medians) / self.spreads


def features_of(gray: Image) -> Array:
    """Return float32 [784]: a gray image uint8 [112, 112] of 28 x 28 without its large-scale light and contrast."""
    small = cv2.resize(flatten(gray), (_FEATURES, _FEATURES), interpolation=cv2.INTER_AREA)
    return np.asarray(small, np.float32).ravel()


def half_of(indices: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return 0 or 1 for positions in a set, so that no step between positions falls into one half alone."""
    return (indices * 2654435761 >> 16) & 1


def fit(grays: list[Image], indices: NDArray[np.int64]) -> Discriminants:
    """Learn where the faces of a set lie.

    Images that look moved themselves are left out in further rounds, as long as there is something to learn.

    Args:
        grays: a sample, uint8 [112, 112] each, MIN_SAMPLE or more.
        indices: int64 [N], their positions in the set.
    """
    rng = np.random.default_rng(0)
    images = np.stack([features_of(gray) for gray in grays])
    moved = np.stack([[features_of(_move(gray, rng)) for _ in range(_COPIES)] for gray in grays])
    half = half_of(indices)
    kept = np.ones(len(grays), np.bool_)
    for _ in range(_ROUNDS):
        learnt = _learn(images, moved, half, kept)
        if not learnt.is_consistent:
            break
        kept = learnt.score(images)[np.arange(len(half)), half] > -2
    return learnt


def _learn(images: Array, moved: Array, half: NDArray[np.int64], kept: NDArray[np.bool_]) -> Discriminants:
    weights, medians, spreads = [], [], []
    scores, moved_scores = [], []
    for own in (0, 1):
        used, judged = kept & (half != own), half == own
        weights.append(_discriminant(_with_mirrored(images[used]), _with_mirrored(moved[used])))
        values = images[judged] @ weights[-1]
        usual = values[kept[judged]]
        medians.append(np.median(usual))
        spreads.append(1.4826 * np.median(np.abs(usual - medians[-1])) + 1e-9)
        scores.append((values - medians[-1]) / spreads[-1])
        moved_scores.append((moved[judged] @ weights[-1] - medians[-1]) / spreads[-1])
    consistency = _share_above(np.concatenate(scores), np.concatenate(moved_scores).ravel())
    learnt = [np.array(values, np.float32) for values in (weights, medians, spreads)]
    return Discriminants(learnt[0], learnt[1], learnt[2], consistency)


def _with_mirrored(features: Array) -> Array:
    """Return features [..., 784] and those of the mirrored images, [M, 784]: an aligned face is aligned in a mirror."""
    images = features.reshape(-1, _FEATURES, _FEATURES)
    return np.concatenate([images, images[..., ::-1]]).reshape(-1, _FEATURES**2)


def _discriminant(images: Array, moved: Array) -> NDArray[np.float64]:
    """Return Fisher's linear discriminant between two groups, its covariance shrunk towards the identity."""
    covariance = (np.cov(images.T) + np.cov(moved.T)) / 2
    ridge = _SHRINKAGE * np.trace(covariance) / len(covariance)
    return np.linalg.solve(covariance + ridge * np.eye(len(covariance)), images.mean(axis=0) - moved.mean(axis=0))


def _share_above(values: Array, others: Array) -> float:
    return float(np.searchsorted(np.sort(others), values).mean() / len(others))


def _move(gray: Image, rng: np.random.Generator) -> Image:
    """Return an image shifted by 8 to 20 pixels, turned by 15 to 180 degrees, or scaled by 0.55-0.8 or 1.3-1.7."""
    kind, sign = rng.integers(3), rng.choice([-1, 1])
    angle = rng.uniform(15, 180) * sign if kind == 0 else 0.0
    scale = 1.0 if kind != 1 else rng.uniform(0.55, 0.8) if sign < 0 else rng.uniform(1.3, 1.7)
    center = TEMPLATE.mean(axis=0).tolist()
    matrix = cv2.getRotationMatrix2D(center, angle, scale)
    if kind == 2:
        direction, length = rng.uniform(0, 2 * np.pi), rng.uniform(8, 20)
        matrix[:, 2] += length * np.cos(direction), length * np.sin(direction)
    return np.asarray(cv2.warpAffine(gray, matrix, gray.shape[::-1], borderMode=cv2.BORDER_REFLECT_101), np.uint8)
