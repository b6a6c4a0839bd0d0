"""What a score is worth as evidence, in bits: Cllr, the least Cllr of any calibration, and an affine calibration."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit

from evaluation.protocols.checks import FloatArray, Folds, IntArray, check_both_kinds, check_issame, check_scores
from evaluation.protocols.folds import fold_of_pairs

_MAX_STEPS = 100
_CONVERGED = 1e-10  # of a step, in standard deviations of the scores


class AffineLlr(NamedTuple):
    """Natural-log likelihood ratio = scale * score + offset."""

    scale: float
    offset: float

    def __call__(self, scores: ArrayLike) -> FloatArray:
        """Return the ratios of scores, float64 of their shape."""
        return self.scale * np.asarray(scores, np.float64) + self.offset


def cllr(scores: ArrayLike, issame: ArrayLike) -> float:
    """Return the cost of log likelihood ratios in bits; both kinds of pairs weigh the same.

    (mean log2(1 + exp(-llr)) over genuine pairs + mean log2(1 + exp(llr)) over impostor pairs) / 2. 0 is perfect, 1 is
    what a coin at even priors costs, more is worse than saying nothing; 1 - Cllr are the bits gained by a comparison.
    It is defined for people unknown to training, where bits over the classes' prior are not.

    Args:
        scores: [N] floating, natural-log likelihood ratios, as large as they like. Cosines are none: see `fit_llr`.
        issame: bool [N] of both kinds.
    Returns:
        >= 0; infinite if a pair is wrong with an infinite ratio.
    Raises:
        ValueError, TypeError: on disagreeing shapes, NaN scores, one kind of pairs only, labels that are not bool.
    Reference: Brummer, du Preez, "Application-independent evaluation of speaker detection", Computer Speech and
        Language 20, 2006.
    """
    labels = check_issame("cllr", issame)
    check_both_kinds("cllr", labels)
    values = check_scores("cllr", scores, labels.size)
    costs = np.logaddexp(0, np.where(labels, -values, values))
    return float((costs[labels].mean() + costs[~labels].mean()) / (2 * np.log(2)))


def min_cllr(scores: ArrayLike, issame: ArrayLike) -> float:
    """Return the Cllr of the best rising function of the scores, found on these very pairs. In [0, 1].

    Pool adjacent violators, equal scores being one; what is between it and `cllr` is lost to calibration.

    Args and raises: as `cllr`, but scores of any kind.
    """
    labels = check_issame("min_cllr", issame)
    check_both_kinds("min_cllr", labels)
    values = check_scores("min_cllr", scores, labels.size)
    _, place = np.unique(values, return_inverse=True)
    genuine = np.bincount(place, weights=labels)
    return min_cllr_of_counts(genuine, np.bincount(place) - genuine)


def min_cllr_of_counts(genuine: FloatArray | IntArray, impostor: FloatArray | IntArray) -> float:
    """Return `min_cllr` of pairs that are counted by score.

    Args:
        genuine, impostor: [T] pairs of either kind at each distinct score, ascending. Scores between which only one
            kind of pairs lies may be counted as one.
    """
    from scipy.optimize import isotonic_regression  # half a second, which few programs need

    seen = genuine + impostor > 0
    genuine, impostor = genuine[seen], impostor[seen]
    both = genuine + impostor
    starts = isotonic_regression(genuine / both, weights=both).blocks[:-1]
    true, false = np.add.reduceat(genuine, starts), np.add.reduceat(impostor, starts)
    ratio = true.sum() / false.sum()  # a score's likelihood ratio is its true / false over this
    return (_mean_cost(true, false * ratio) + _mean_cost(false, true / ratio)) / 2


def _mean_cost(own: FloatArray, other: FloatArray) -> float:
    """Return the mean of log2(1 + other / own) over own pairs; scores that none of them has cost nothing."""
    seen = own > 0
    return float(own[seen] @ np.log2(1 + other[seen] / own[seen]) / own.sum())


def fit_llr(scores: ArrayLike, issame: ArrayLike) -> AffineLlr:
    """Return the affine function of the scores whose Cllr on these pairs is least. Score others with it.

    Logistic regression in which both kinds of pairs weigh the same, by Newton's method.

    Args:
        scores: [N] finite, such as cosines.
        issame: bool [N] of both kinds.
    Raises:
        ValueError: as `cllr`, or if no finite function is best: the scores are all equal, or tell all pairs apart.
        TypeError: if labels are not bool.
    """
    labels = check_issame("fit_llr", issame)
    counts = check_both_kinds("fit_llr", labels)
    values = check_scores("fit_llr", scores, labels.size)
    _check_finite_fit(values, labels)
    center, spread = values.mean(), values.std()
    terms = np.stack([(values - center) / spread, np.ones(values.size)])
    weights = np.where(labels, 1 / counts[0], 1 / counts[1])
    point = np.zeros(2)
    for _ in range(_MAX_STEPS):
        share = expit(point @ terms)
        gradient = terms @ (weights * (share - labels))
        step = np.linalg.solve((terms * (weights * share * (1 - share))) @ terms.T, gradient)
        point = point - step
        if np.abs(step).max() <= _CONVERGED:
            break
    else:
        raise ValueError(f"fit_llr: no best function was found in {_MAX_STEPS} steps; fit on more pairs")
    scale = float(point[0] / spread)
    return AffineLlr(scale, float(point[1] - scale * center))


def cross_fitted_cllr(fold_scores: ArrayLike, issame: ArrayLike, folds: Folds) -> float | None:
    """Return the Cllr of scores that are calibrated, in each fold, by the `fit_llr` of all other folds.

    Args:
        fold_scores: [N] scores, or [F, N] where each fold has its own of all pairs, as of fused ones.
        issame: bool [N] of both kinds.
        folds: a count (contiguous folds) or an integer array [N].
    Returns:
        As `cllr`; None where the other folds of one have no best function, because they tell all pairs apart, say.
    """
    labels = check_issame("cross_fitted_cllr", issame)
    rows, parts = np.atleast_2d(np.asarray(fold_scores, np.float64)), fold_of_pairs(folds, labels.size)
    ratios = np.empty(labels.size)
    for place, fold in enumerate(np.unique(parts)):
        scores, is_own = rows[place % len(rows)], parts == fold
        try:
            ratios[is_own] = fit_llr(scores[~is_own], labels[~is_own])(scores[is_own])
        except (ValueError, np.linalg.LinAlgError):
            return None
    return cllr(ratios, labels)


def _check_finite_fit(values: FloatArray, labels: np.ndarray) -> None:
    genuine, impostor = values[labels], values[~labels]
    if not np.isfinite(values).all():
        raise ValueError("fit_llr: scores must be finite; infinite ones have no affine function")
    if values.min() == values.max():
        raise ValueError("fit_llr: all scores are equal: they are no evidence")
    if genuine.min() >= impostor.max() or genuine.max() <= impostor.min():
        raise ValueError("fit_llr: the scores tell all pairs apart, so that no finite scale is best; fit on more pairs")
