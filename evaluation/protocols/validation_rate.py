"""Validation rate: true accepts at a FAR whose threshold comes from the other folds."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from evaluation.protocols.checks import (
    BoolArray,
    FloatArray,
    Folds,
    IntArray,
    check_both_kinds,
    check_issame,
    check_scores,
)
from evaluation.protocols.folds import fold_of_pairs


class ValidationRate(NamedTuple):
    """True-accept rate over test folds (mean, population std) and the mean FAR met on them."""

    mean: float
    std: float
    far: float


def _fold_accepts(
    scores: FloatArray, issame: BoolArray, fold_of_pair: IntArray, thresholds: FloatArray
) -> tuple[IntArray, IntArray]:
    """Return (true accepts, false accepts), each int64 [F, T]: pairs of each fold with score > threshold."""

    def accepts(chosen: BoolArray) -> IntArray:
        return chosen.sum() - np.searchsorted(np.sort(scores[chosen]), thresholds, side="right")

    in_folds = [fold_of_pair == fold for fold in range(int(fold_of_pair.max()) + 1)]
    true_accepts = np.stack([accepts(in_fold & issame) for in_fold in in_folds])
    false_accepts = np.stack([accepts(in_fold & ~issame) for in_fold in in_folds])
    return true_accepts, false_accepts


def fold_mean_rates(
    scores: ArrayLike, issame: ArrayLike, thresholds: ArrayLike, folds: Folds = 10
) -> tuple[FloatArray, FloatArray]:
    """Return (tar, far), each [T]: rates at each threshold (accepted when score > threshold), averaged over the folds.

    Raises:
        ValueError: as `validation_rate`.
    """
    values, labels, fold_of_pair = _check_folded("fold_mean_rates", scores, issame, folds)
    accepts = _fold_accepts(values, labels, fold_of_pair, np.asarray(thresholds, dtype=np.float64))
    totals = (np.bincount(fold_of_pair[labels]), np.bincount(fold_of_pair[~labels]))
    tar, far = ((count / total[:, None]).mean(0) for count, total in zip(accepts, totals, strict=True))
    return tar, far


def validation_rate(
    scores: ArrayLike, issame: ArrayLike, far: float, thresholds: ArrayLike, folds: Folds = 10
) -> ValidationRate:
    """Return the true-accept rate on each fold at the threshold that gives the wanted FAR on the other folds.

    The threshold is interpolated linearly between those given (FAR -> threshold). Where they do not enclose the wanted
    FAR on the training folds, nothing is accepted. A pair is accepted when score > threshold.

    Raises:
        ValueError: on disagreeing shapes, NaN scores, or a fold without genuine or without impostor pairs.
    Reference: Schroff, Kalenichenko, Philbin, "FaceNet", CVPR 2015, Sec. 4 (VAL at FAR), as its public evaluations do
    it.
    """
    values, labels, fold_of_pair = _check_folded("validation_rate", scores, issame, folds)
    strictest_first = np.sort(np.asarray(thresholds, dtype=np.float64))[::-1]
    _, false_accepts = _fold_accepts(values, labels, fold_of_pair, strictest_first)
    num_genuine, num_impostor = np.bincount(fold_of_pair[labels]), np.bincount(fold_of_pair[~labels])
    tar, reached = np.empty(len(num_genuine)), np.empty(len(num_genuine))
    for fold in range(len(num_genuine)):
        training_far = (false_accepts.sum(0) - false_accepts[fold]) / (num_impostor.sum() - num_impostor[fold])
        enclosed = training_far[0] <= far <= training_far[-1]
        threshold = np.interp(far, training_far, strictest_first) if enclosed else np.inf
        accepted, test = values > threshold, fold_of_pair == fold
        tar[fold] = np.sum(accepted & labels & test) / num_genuine[fold]
        reached[fold] = np.sum(accepted & ~labels & test) / num_impostor[fold]
    return ValidationRate(float(tar.mean()), float(tar.std()), float(reached.mean()))


def _check_folded(
    place: str, scores: ArrayLike, issame: ArrayLike, folds: Folds
) -> tuple[FloatArray, BoolArray, IntArray]:
    labels = check_issame(place, issame)
    values = check_scores(place, scores, labels.size)
    fold_of_pair = fold_of_pairs(folds, labels.size)
    for fold in range(int(fold_of_pair.max()) + 1):
        check_both_kinds(f"{place}, fold {fold}", labels[fold_of_pair == fold])
    return values, labels, fold_of_pair
