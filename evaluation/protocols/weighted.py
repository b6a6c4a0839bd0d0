"""Verification measures of weighted pairs, many weightings at once; what the bootstrap recomputes.

Each function prepares what depends on the scores alone and returns a function of weights [R, N] >= 0 that gives [R]
values, NaN where a weighting leaves the measure undefined. With all weights one they equal `verification`, `tar_at_far`
and `auc`.
"""

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from evaluation.protocols.checks import BoolArray, FloatArray, Folds, IntArray, check_both_kinds, check_scores
from evaluation.protocols.folds import fold_of_pairs
from evaluation.protocols.roc import is_resolved

WeightedMeasure: TypeAlias = Callable[[FloatArray], FloatArray]


def weighted_accuracy(scores: ArrayLike, issame: BoolArray, folds: Folds = 10) -> WeightedMeasure:
    """Return the mean accuracy over folds, thresholds chosen on the other folds as weighted; scores [N] or [F, N]."""
    fold_of_pair = fold_of_pairs(folds, issame.size)
    num_folds = int(fold_of_pair.max()) + 1
    rows = np.atleast_2d(check_scores("weighted_accuracy", scores, issame.size, num_folds))
    shared = _AscendingPairs(rows[0], issame) if len(rows) == 1 else None
    prepared = [shared or _AscendingPairs(row, issame) for row in np.broadcast_to(rows, (num_folds, issame.size))]

    def measure(weights: FloatArray) -> FloatArray:
        ordered = weights.take(prepared[0].order, axis=1)
        gains = prepared[0].gains(ordered)
        correct = np.zeros(len(weights))
        for fold, pairs in enumerate(prepared):
            if fold and not shared:
                ordered = weights.take(pairs.order, axis=1)
                gains = pairs.gains(ordered)
            correct += pairs.test_accuracy(ordered, gains, fold_of_pair[pairs.order] == fold)
        return correct / num_folds

    return measure


class _AscendingPairs:
    """Pairs in ascending order of score, and the places between them where a threshold can be the best one.

    A threshold lies between different scores. Rejecting more impostors is never worse, so the best one lies before a
    score that a genuine pair has, or above all: with few genuine pairs few places are to be compared.
    """

    def __init__(self, scores: FloatArray, issame: BoolArray) -> None:
        self.order = np.argsort(scores, kind="stable")
        ascending = scores[self.order]
        self.issame = issame[self.order]
        self.sign = np.where(self.issame, -1.0, 1.0)  # what rejecting the pair adds to the number of right decisions
        last_of_ties = np.flatnonzero(np.append(ascending[1:] > ascending[:-1], True))
        self.num_rejected = np.append(0, last_of_ties + 1)  # rejected pairs at -inf and at each distinct score
        has_genuine = np.logical_or.reduceat(self.issame, self.num_rejected[:-1])
        self.bounds = np.unique(np.append(self.num_rejected[:-1][has_genuine], [0, issame.size]))

    def gains(self, weights: FloatArray) -> FloatArray:
        """Return [R, bounds], what rejecting the pairs below each of the bounds gains. Weights in order."""
        gained = np.zeros((len(weights), len(self.bounds)))
        np.cumsum(np.add.reduceat(weights * self.sign, self.bounds[:-1], axis=1), axis=1, out=gained[:, 1:])
        return gained

    def test_accuracy(self, weights: FloatArray, gains: FloatArray, test: BoolArray) -> FloatArray:
        """Return [R]: accuracy on the test pairs at the first best threshold of the others. All arguments in order."""
        places = np.flatnonzero(test)
        of_test = weights[:, places]
        test_gains = np.zeros((len(weights), len(places) + 1))
        np.cumsum(of_test * self.sign[places], axis=1, out=test_gains[:, 1:])
        best = np.argmax(gains - test_gains[:, np.searchsorted(places, self.bounds)], axis=1)
        num_rejected = np.array([self._first(row, test, bound) for row, bound in zip(weights, best, strict=True)])
        right = (places >= num_rejected[:, None]) == self.issame[places]
        return _divide((of_test * right).sum(1), of_test.sum(1))

    def _first(self, weights: FloatArray, test: BoolArray, bound: int) -> int:
        """Return the first threshold that is as good as a bound, the first best: what it rejects more weighs nothing.

        Between the bound before and this one it is that after the last pair that is trained on.
        """
        if bound == 0:
            return 0
        between = slice(self.bounds[bound - 1], self.bounds[bound])
        last = int(np.flatnonzero((weights[between] > 0) & ~test[between])[-1]) + int(self.bounds[bound - 1])
        return int(self.num_rejected[np.searchsorted(self.num_rejected, last, side="right")])


def weighted_tar_at_far(scores: ArrayLike, issame: BoolArray, far: float) -> WeightedMeasure:
    """Return the largest weighted TAR whose weighted FAR <= far; always NaN if the plain pairs cannot resolve far."""
    measure = weighted_tars_at_fars(scores, issame, [far])
    return lambda weights: measure(weights)[:, 0]


def weighted_tars_at_fars(scores: ArrayLike, issame: BoolArray, fars: Sequence[float]) -> WeightedMeasure:
    """Return `weighted_tar_at_far` of several limits, whose values are [R, limits]."""
    _, num_impostor = check_both_kinds("weighted_tar_at_far", issame)
    values = check_scores("weighted_tar_at_far", scores, issame.size)
    limits = np.array(fars, dtype=np.float64)
    unresolved = np.array([not is_resolved(far, num_impostor) for far in fars], dtype=np.bool_)
    genuine, impostor = _places_descending(values, issame), _places_descending(values, ~issame)
    # Genuine pairs scoring strictly above the i-th impostor; past the last impostor, all of them.
    num_above = np.searchsorted(-values[genuine], -values[impostor], side="left")
    num_above = np.append(num_above, genuine.size)

    def measure(weights: FloatArray) -> FloatArray:
        false_accepts = np.cumsum(weights[:, impostor], axis=1)
        # Division as in roc_curve, so that a limit met exactly counts as met.
        reached = _divide(false_accepts, false_accepts[:, -1:])
        first_refused = np.stack([np.searchsorted(row, limits, side="right") for row in reached])
        true_accepts = np.zeros((len(weights), genuine.size + 1))
        np.cumsum(weights[:, genuine], axis=1, out=true_accepts[:, 1:])
        accepted = np.take_along_axis(true_accepts, num_above[first_refused], axis=1)
        absent = (false_accepts[:, -1:] <= 0) | unresolved
        return np.where(absent, np.nan, _divide(accepted, true_accepts[:, -1:]))

    return measure


def weighted_rates(counted: BoolArray, chosen: BoolArray) -> WeightedMeasure:
    """Return the weighted shares of the chosen pairs that are counted, [R, K] for columns [N, K] of both."""
    columns, num_rates = np.concatenate([counted, chosen], axis=1).astype(np.float64), counted.shape[1]

    def measure(weights: FloatArray) -> FloatArray:
        found = weights @ columns
        return _divide(found[:, :num_rates], found[:, num_rates:])

    return measure


def weighted_auc(scores: ArrayLike, issame: BoolArray) -> WeightedMeasure:
    """Return the weighted share of (genuine, impostor) comparisons ranked right, ties counting half."""
    check_both_kinds("weighted_auc", issame)
    values = check_scores("weighted_auc", scores, issame.size)
    genuine, impostor = np.flatnonzero(issame), _places_descending(values, ~issame)[::-1]
    below = np.searchsorted(values[impostor], values[genuine], side="left")
    not_above = np.searchsorted(values[impostor], values[genuine], side="right")

    def measure(weights: FloatArray) -> FloatArray:
        cumulative = np.zeros((len(weights), impostor.size + 1))
        np.cumsum(weights[:, impostor], axis=1, out=cumulative[:, 1:])
        of_genuine = weights[:, genuine]
        ranked_right = (of_genuine * (cumulative[:, below] + cumulative[:, not_above])).sum(1) / 2
        return _divide(ranked_right, of_genuine.sum(1) * cumulative[:, -1])

    return measure


def _places_descending(scores: FloatArray, chosen: BoolArray) -> IntArray:
    places = np.flatnonzero(chosen)
    return places[np.argsort(-scores[places], kind="stable")]


def _divide(numerator: FloatArray, denominator: FloatArray) -> FloatArray:
    """Divide; NaN where the denominator is zero, without numpy's warning."""
    return np.divide(numerator, np.where(denominator > 0, denominator, np.nan))
