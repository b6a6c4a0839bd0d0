"""Verification measures of weighted pairs, many weightings at once; what the bootstrap recomputes.

Each function prepares what depends on the scores alone and returns a function of weights [R, N] >= 0 that gives [R]
values, NaN where a weighting leaves the measure undefined. With all weights one they equal `verification`, `tar_at_far`
and `auc`.
"""

from collections.abc import Callable
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
        ordered = weights[:, shared.order] if shared else None
        correct = np.zeros(len(weights))
        for fold, pairs in enumerate(prepared):
            in_order = weights[:, pairs.order] if ordered is None else ordered
            correct += pairs.test_accuracy(in_order, fold_of_pair[pairs.order] == fold)
        return correct / num_folds

    return measure


class _AscendingPairs:
    """Pairs in ascending order of score, and the places between them where a threshold can lie."""

    def __init__(self, scores: FloatArray, issame: BoolArray) -> None:
        self.order = np.argsort(scores, kind="stable")
        ascending = scores[self.order]
        self.issame = issame[self.order]
        self.sign = np.where(self.issame, -1.0, 1.0)  # what rejecting the pair adds to the number of right decisions
        last_of_ties = np.flatnonzero(np.append(ascending[1:] > ascending[:-1], True))
        self.num_rejected = np.append(0, last_of_ties + 1)  # rejected pairs at -inf and at each distinct score

    def test_accuracy(self, weights: FloatArray, test: BoolArray) -> FloatArray:
        """Return [R]: accuracy on the test pairs at the first best threshold of the others. All arguments in order."""
        training_gain = np.zeros((len(weights), len(test) + 1))
        np.cumsum(weights * np.where(test, 0.0, self.sign), axis=1, out=training_gain[:, 1:])
        num_rejected = self.num_rejected[np.argmax(training_gain[:, self.num_rejected], axis=1)]
        test_places = np.flatnonzero(test)
        right = (test_places >= num_rejected[:, None]) == self.issame[test_places]
        test_weights = weights[:, test_places]
        return _divide((test_weights * right).sum(1), test_weights.sum(1))


def weighted_tar_at_far(scores: ArrayLike, issame: BoolArray, far: float) -> WeightedMeasure:
    """Return the largest weighted TAR whose weighted FAR <= far; always NaN if the plain pairs cannot resolve far."""
    _, num_impostor = check_both_kinds("weighted_tar_at_far", issame)
    values = check_scores("weighted_tar_at_far", scores, issame.size)
    if not is_resolved(far, num_impostor):
        return lambda weights: np.full(len(weights), np.nan)
    genuine, impostor = _places_descending(values, issame), _places_descending(values, ~issame)
    # Genuine pairs scoring strictly above the i-th impostor; past the last impostor, all of them.
    num_above = np.searchsorted(-values[genuine], -values[impostor], side="left")
    num_above = np.append(num_above, genuine.size)

    def measure(weights: FloatArray) -> FloatArray:
        false_accepts = np.cumsum(weights[:, impostor], axis=1)
        # Division as in roc_curve, so that a limit met exactly counts as met.
        reached = _divide(false_accepts, false_accepts[:, -1:])
        first_refused = (reached <= far).sum(1)
        true_accepts = np.zeros((len(weights), genuine.size + 1))
        np.cumsum(weights[:, genuine], axis=1, out=true_accepts[:, 1:])
        accepted = np.take_along_axis(true_accepts, num_above[first_refused][:, None], axis=1)[:, 0]
        return np.where(false_accepts[:, -1] > 0, _divide(accepted, true_accepts[:, -1]), np.nan)

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
