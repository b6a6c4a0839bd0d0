"""Whether a representation has collapsed, and how evenly it fills the sphere."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]

_PAIRS_AT_ONCE = 2**24
_EPSILON = 1e-7  # of RankMe, as published


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


def _matrix(embeddings: ArrayLike, place: str) -> FloatArray:
    array = np.asarray(embeddings, np.float64)
    if array.ndim != 2:
        raise ValueError(f"{place}: embeddings must be [N, D], got {list(array.shape)}")
    return array
