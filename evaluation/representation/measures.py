"""Whether a representation has collapsed, how evenly it fills the sphere, and what its nearest neighbours vote for."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]

_PAIRS_AT_ONCE = 2**24
_EPSILON = 1e-7  # of RankMe, as published


class Votes(NamedTuple):
    """What neighbours say of queries.

    Attributes:
        scores: float64 [Q, num_classes], weights of the k nearest by class.
        predicted: int64 [Q], the class of the largest; of equal ones the lower.
    """

    scores: FloatArray
    predicted: NDArray[np.int64]


def alignment(first: ArrayLike, second: ArrayLike, power: float = 2.0) -> float:
    """Return the mean of |x - y|^power over pairs of views [N, D] of one image; 0 = both views are described alike.

    Reference: Wang, Isola, "Understanding contrastive representation learning through alignment and uniformity", 2020.
    """
    x, y = _matrix(first, "alignment"), _matrix(second, "alignment")
    if x.shape != y.shape:
        raise ValueError(f"alignment: both views must have one shape, got {list(x.shape)} and {list(y.shape)}")
    return float(np.mean(np.linalg.norm(x - y, axis=1) ** power)) if len(x) else float("nan")


def uniformity(embeddings: ArrayLike, t: float = 2.0) -> float:
    """Return the logarithm of the mean of exp(-t |x - y|^2) over all pairs of [N, D] unit vectors.

    0 = collapsed; with t = 2 an even spread over the sphere of 512 dimensions has -3.98. NaN for fewer than two.

    Reference: Wang, Isola, 2020.
    """
    x = _matrix(embeddings, "uniformity")
    num = len(x)
    if num < 2:
        return float("nan")
    total, step = 0.0, max(1, _PAIRS_AT_ONCE // num)
    lengths = (x * x).sum(axis=1)
    for start in range(0, num, step):
        rows = slice(start, start + step)
        squared = lengths[rows, None] + lengths - 2 * x[rows] @ x.T
        later = np.arange(num) > np.arange(num)[rows, None]
        total += float(np.exp(-t * np.maximum(squared, 0))[later].sum())
    return float(np.log(total / (num * (num - 1) / 2)))


def std_per_dimension(embeddings: ArrayLike) -> FloatArray:
    """Return the standard deviation (of a sample) of each dimension of [N, D], float64 [D].

    Its mean times the root of D is 1 for unit vectors that are spread evenly, 0 for collapsed ones. NaN for one image.

    Reference: Chen, He, "Exploring simple siamese representation learning", CVPR 2021, Sec. 4.1.
    """
    x = _matrix(embeddings, "std_per_dimension")
    return x.std(axis=0, ddof=1) if len(x) > 1 else np.full(x.shape[1], np.nan)


def rankme(embeddings: ArrayLike) -> float:
    """Return exp of the entropy of the singular values of [N, D], not centered: how many dimensions are in use.

    Reference: Garrido et al., "RankMe", ICML 2023, Eq. 1.
    """
    values = np.linalg.svd(_matrix(embeddings, "rankme"), compute_uv=False)
    shares = values / values.sum() + _EPSILON
    return float(np.exp(-(shares * np.log(shares)).sum()))


def effective_rank(embeddings: ArrayLike) -> float:
    """Return exp of the entropy of the squared singular values of [N, D], not centered; NaN if all are 0.

    Reference: Roy, Vetterli, "The effective rank", EUSIPCO 2007.
    """
    variances = np.linalg.svd(_matrix(embeddings, "effective_rank"), compute_uv=False) ** 2
    if not variances.sum():
        return float("nan")
    shares = variances / variances.sum()
    shares = shares[shares > 0]
    return float(np.exp(-(shares * np.log(shares)).sum()))


def knn_votes(
    queries: ArrayLike,
    gallery: ArrayLike,
    labels: ArrayLike,
    k: int = 200,
    temperature: float = 0.07,
    num_classes: int | None = None,
) -> Votes:
    """Let the k nearest of a labeled gallery vote for the class of each query, with weight exp(cosine / temperature).

    Args:
        queries, gallery: unit vectors [Q, D] and [N, D].
        labels: int [N] >= 0.
        k: neighbours; at most N count. Of equal cosines the lower index is nearer.
        temperature: > 0.
        num_classes: columns of the scores; None: as many as the labels have.
    Raises:
        ValueError: if shapes disagree or a number is out of range.
    Reference: Wu et al., "Unsupervised feature learning via non-parametric instance discrimination", CVPR 2018, Eq. 8.
    """
    x, y, classes = _matrix(queries, "knn_votes"), _matrix(gallery, "knn_votes"), np.asarray(labels)
    if x.shape[1] != y.shape[1] or classes.shape != (len(y),) or not len(y):
        raise ValueError(
            "knn_votes: queries [Q, D], gallery [N, D] and labels [N] must go together, got"
            f" {list(x.shape)}, {list(y.shape)} and {list(classes.shape)}"
        )
    if k < 1 or temperature <= 0 or classes.min() < 0:
        raise ValueError("knn_votes: k must be at least 1, the temperature above 0 and labels at least 0")
    width = num_classes or int(classes.max()) + 1
    scores = np.zeros((len(x), width))
    step = max(1, _PAIRS_AT_ONCE // len(y))
    for start in range(0, len(x), step):
        cosine = x[start : start + step] @ y.T
        nearest = np.argsort(-cosine, axis=1, kind="stable")[:, :k]
        weights = np.exp(np.take_along_axis(cosine, nearest, axis=1) / temperature)
        rows = np.arange(start, start + len(cosine))[:, None]
        np.add.at(scores, (rows, classes[nearest]), weights)
    return Votes(scores, scores.argmax(axis=1))


def _matrix(embeddings: ArrayLike, place: str) -> FloatArray:
    array = np.asarray(embeddings, np.float64)
    if array.ndim != 2:
        raise ValueError(f"{place}: embeddings must be [N, D], got {list(array.shape)}")
    return array
