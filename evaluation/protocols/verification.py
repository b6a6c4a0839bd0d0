"""Cross-validated verification accuracy, the protocol of LFW and its relatives."""

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


class VerificationResult(NamedTuple):
    """Accuracy over folds: mean, population standard deviation, and both per fold (float64 [F])."""

    accuracy: float
    std: float
    fold_accuracy: FloatArray
    fold_threshold: FloatArray


def verification(
    scores: ArrayLike,
    issame: ArrayLike,
    folds: Folds = 10,
    thresholds: ArrayLike | None = None,
    balanced: bool = False,
) -> VerificationResult:
    """Return the accuracy of each fold at the threshold that is best on all other folds.

    Args:
        scores: [N] floating, larger = more alike; or [F, N]: row f holds all pairs as fold f is to see them (`fuse`).
        issame: bool [N].
        folds: a count (contiguous folds) or an integer array [N] (see `fold_of_pairs`).
        thresholds: [T] floating, tried in the order given, the first best wins. None: -inf and every distinct score,
            ascending. A pair is accepted when score > threshold.
        balanced: whether genuine and impostor pairs count equally, in choosing thresholds and in the accuracy, however
            many there are of each: the same answer to every pair then gets 50 %.
    Raises:
        ValueError: on shapes that disagree, NaN scores or thresholds, no thresholds, fewer than two folds or an empty
            one; where balanced, on a fold of one kind of pairs.
        TypeError: if issame is not bool or a fold array is not integer.
    Reference: Huang et al., "Labeled Faces in the Wild", UMass Amherst TR 07-49, 2007 (View 2).
    """
    labels = check_issame("verification", issame)
    fold_of_pair = fold_of_pairs(folds, labels.size)
    num_folds = int(fold_of_pair.max()) + 1
    rows = np.broadcast_to(check_scores("verification", scores, labels.size, num_folds), (num_folds, labels.size))
    candidates = None if thresholds is None else _check_thresholds(thresholds)
    fold_accuracy, fold_threshold = np.empty(num_folds), np.empty(num_folds)
    shared = _SortedFolds(rows[0], labels, fold_of_pair) if rows.strides[0] == 0 and candidates is None else None
    for fold, row in enumerate(rows):
        test = fold_of_pair == fold
        if shared is not None:
            fold_threshold[fold] = shared.best_threshold_without(fold, balanced)
        else:
            fold_threshold[fold] = best_threshold(row[~test], labels[~test], candidates, balanced)
        right = (row[test] > fold_threshold[fold]) == labels[test]
        if balanced:
            check_both_kinds(f"verification, fold {fold}", labels[test])
            fold_accuracy[fold] = (right[labels[test]].mean() + right[~labels[test]].mean()) / 2
        else:
            fold_accuracy[fold] = right.mean()
    return VerificationResult(float(fold_accuracy.mean()), float(fold_accuracy.std()), fold_accuracy, fold_threshold)


def decide(scores: ArrayLike, thresholds: ArrayLike, folds: Folds = 10) -> BoolArray:
    """Return which pairs are accepted, bool [N], each at the threshold of its own fold; see `verification`.

    Args:
        scores: [N], or [F, N] as `verification` takes them.
        thresholds: [F], of the folds.
        folds: a count or an integer array [N].
    """
    values, by_fold = np.asarray(scores), np.asarray(thresholds)
    fold_of_pair = fold_of_pairs(folds, values.shape[-1])
    own = values if values.ndim == 1 else values[fold_of_pair, np.arange(values.shape[1])]
    return own > by_fold[fold_of_pair]


def best_threshold(
    scores: FloatArray, issame: BoolArray, thresholds: FloatArray | None = None, balanced: bool = False
) -> float:
    """Return the first of the thresholds with the highest accuracy on these pairs (None, balanced: as `verification`).

    For None the distinct scores of these pairs are enough: a foreign score between two of them decides like the lower
    one, which is tried first. So a test fold never shapes its own threshold.
    """
    if thresholds is None:
        thresholds = np.concatenate(([-np.inf], np.unique(scores)))
    rejected_impostors = np.searchsorted(np.sort(scores[~issame]), thresholds, side="right")
    rejected_genuine = np.searchsorted(np.sort(scores[issame]), thresholds, side="right")
    if balanced:  # in whole numbers, so that equal shares are equal
        rejected_impostors, rejected_genuine = rejected_impostors * issame.sum(), rejected_genuine * (~issame).sum()
    return float(thresholds[np.argmax(rejected_impostors - rejected_genuine)])


class _SortedFolds:
    """Scores sorted once within each fold, in which the best thresholds of all unions of folds are found.

    Refusing more impostor pairs is never worse, so a best threshold lies right below a genuine score or above all; it
    is the highest score that is refused there.
    """

    def __init__(self, scores: FloatArray, issame: BoolArray, fold_of_pair: IntArray) -> None:
        chosen = [fold_of_pair == fold for fold in range(int(fold_of_pair.max()) + 1)]
        parts = [(np.sort(scores[fold & issame]), np.sort(scores[fold & ~issame])) for fold in chosen]
        self.sizes = np.array([[genuine.size, impostor.size] for genuine, impostor in parts])
        bounds = np.unique(scores[issame & (scores > -np.inf)])  # a score of -inf is never accepted
        # [folds, 2, bounds + 1]: pairs of each kind that score less than a bound, at last all, and the highest score
        # among them.
        self.below = np.array(
            [[np.append(np.searchsorted(side, bounds), side.size) for side in part] for part in parts]
        )
        self.highest = np.array(
            [
                [np.append(-np.inf, side)[below] for side, below in zip(part, counts, strict=True)]
                for part, counts in zip(parts, self.below, strict=True)
            ]
        )

    def best_threshold_without(self, fold: int, balanced: bool) -> float:
        """Return `best_threshold` of the pairs of all other folds."""
        others = np.arange(len(self.sizes)) != fold
        genuine, impostor = self.below[others].sum(0)
        if balanced:
            num_genuine, num_impostor = self.sizes[others].sum(0)
            genuine, impostor = genuine * num_impostor, impostor * num_genuine
        return float(self.highest[others][:, :, np.argmax(impostor - genuine)].max())


def _check_thresholds(thresholds: ArrayLike) -> FloatArray:
    array = np.asarray(thresholds, dtype=np.float64)
    if array.ndim != 1 or array.size == 0 or np.isnan(array).any():
        raise ValueError(
            f"verification: thresholds must be [T], T >= 1, without NaN, got shape {list(array.shape)} with"
            f" {int(np.isnan(array).sum())} NaN; pass None to try every distinct score."
        )
    return array
