"""Shares of data sets: from sizes and weights, and as whole numbers whose sums are never rounded."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

_PRECISION = 10**6  # of one weight over another, which is then a fraction: no sum of shares is ever rounded
_LEAST_SHARE = 1e-12
# Of shares that change from epoch to epoch: what a set lags behind then means the same in all of them.
_CHANGING_TOTAL = 10**12


def mixture_weights(sizes: Sequence[int], weights: Sequence[float] | None = None, alpha: float = 0.5) -> FloatArray:
    """Return shares p_i = w_i n_i^alpha / sum for data sets of n_i images, float64 [sets]: weights of a mixture.

    Args:
        sizes: images of each set, >= 1.
        weights: w, >= 0 with a sum above 0; None: 1 each. A set with weight 0 is to be left out.
        alpha: in [0, 1]; 1: in proportion to the sizes; 0: the weights alone, whatever the sizes.
    Raises:
        ValueError: if lengths differ or a number is out of its range.
    """
    images = np.asarray(sizes, np.float64)
    given = np.ones(images.shape) if weights is None else np.asarray(weights, np.float64)
    if images.ndim != 1 or given.shape != images.shape or not images.size or not (images >= 1).all():
        raise ValueError(
            f"mixture_weights: as many weights as sets of one image or more are needed, got {list(given.shape)} and "
            f"{list(sizes)}"
        )
    if not (np.isfinite(given) & (given >= 0)).all() or not given.any():
        raise ValueError(f"mixture_weights: weights must be finite, >= 0 and not all 0, got {given.tolist()}")
    if not 0 <= alpha <= 1:
        raise ValueError(f"mixture_weights: alpha must be in [0, 1], got {alpha}")
    shares = given / given.max() * images**alpha
    return shares / shares.sum()


def whole_shares(weights: Sequence[float], num_sets: int) -> list[int]:
    """Return whole numbers in the proportion of the weights: 3, 6 and 1 for 0.3, 0.6 and 0.1."""
    values = np.asarray(weights, np.float64)
    if num_sets == 0 or values.shape != (num_sets,) or not (np.isfinite(values) & (values > 0)).all():
        raise ValueError(
            f"MixtureBatchSampler: {num_sets} sets need as many weights, finite and above 0, got {list(weights)}"
        )
    if values.min() < _LEAST_SHARE * values.max():
        raise ValueError(
            f"MixtureBatchSampler: a weight below {_LEAST_SHARE:g} of the largest would never be drawn from, got "
            f"{list(weights)}; leave the set out"
        )
    exact = [Fraction(value) for value in (values / values.max()).tolist()]
    shares = [share.limit_denominator(_PRECISION) or share for share in exact]
    scale = math.lcm(*(share.denominator for share in shares))
    return [int(share * scale) for share in shares]


def changing_shares(shares: FloatArray) -> list[int]:
    """Return whole numbers in the proportion of shares [sets] that sum to 1, with the same sum whatever the shares."""
    upper = [round(float(share) * _CHANGING_TOTAL) for share in np.cumsum(shares)[:-1]]
    return [above - below for below, above in pairwise([0, *upper, _CHANGING_TOTAL])]
