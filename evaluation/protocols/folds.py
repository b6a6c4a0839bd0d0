"""Which fold of a cross-validation each pair belongs to."""

import numpy as np
from numpy.typing import ArrayLike

from evaluation.protocols.checks import Folds, IntArray, check_issame


def fold_of_pairs(folds: Folds, num_pairs: int) -> IntArray:
    """Return the fold of each pair as int64 [num_pairs], numbered 0..F-1, F >= 2.

    Args:
        folds: a count F: contiguous folds in order, the first num_pairs % F of them one pair longer (as
            numpy.array_split and scikit-learn's KFold cut); or an integer array [num_pairs], whose distinct values in
            ascending order become folds 0..F-1.
        num_pairs: how many pairs there are.
    Raises:
        ValueError: fewer than two folds, more folds than pairs (some would be empty), or an array of another length.
        TypeError: an array that is not integer.
    """
    if isinstance(folds, int | np.integer):
        return _contiguous_folds(int(folds), num_pairs)
    values = np.asarray(folds)
    if values.shape != (num_pairs,):
        raise ValueError(f"folds: an array must be [{num_pairs}], one fold per pair, got shape {list(values.shape)}.")
    if not np.issubdtype(values.dtype, np.integer):
        raise TypeError(f"folds: an array must be integer, got {values.dtype}.")
    distinct, numbered = np.unique(values, return_inverse=True)
    if len(distinct) < 2:
        raise ValueError(f"folds: at least two distinct folds are needed, got only {distinct.tolist()}.")
    return numbered.astype(np.int64)


def _contiguous_folds(num_folds: int, num_pairs: int) -> IntArray:
    if not 2 <= num_folds <= num_pairs:
        raise ValueError(f"folds: a count must be between 2 and the number of pairs {num_pairs}, got {num_folds}.")
    sizes = [len(part) for part in np.array_split(np.empty(num_pairs, dtype=np.bool_), num_folds)]
    return np.repeat(np.arange(num_folds, dtype=np.int64), sizes)


def usual_folds(issame: ArrayLike, num_folds: int = 10) -> int | IntArray:
    """Return the folds of pairs whose protocol states none: the number of contiguous folds, mostly num_folds.

    Fewer than num_folds pairs give as many folds. Where a contiguous fold would hold one kind of pairs alone, because
    all genuine pairs come first or there are few, the folds are stratified instead, int64 [N], and as many as there are
    pairs of the rarer kind at most.
    """
    labels = check_issame("usual_folds", issame)
    num_contiguous = min(num_folds, labels.size)
    if num_contiguous > 1 and not one_kind_folds(labels, _contiguous_folds(num_contiguous, labels.size)):
        return num_contiguous
    return stratified_folds(labels, max(1, min(num_folds, int(labels.sum()), int((~labels).sum()))))


def one_kind_folds(issame: ArrayLike, folds: ArrayLike) -> list[int]:
    """Return the numbers in folds, integers [N], whose pairs are all genuine or all impostors."""
    labels, numbers = check_issame("one_kind_folds", issame), np.asarray(folds)
    return sorted(set(numbers.tolist()) - (set(numbers[labels].tolist()) & set(numbers[~labels].tolist())))


def stratified_folds(issame: ArrayLike, num_folds: int = 10, seed: int = 0) -> IntArray:
    """Return a seeded random fold per pair, int64 [N], with genuine and impostor pairs spread evenly.

    For pairs whose order says nothing, such as all pairs of a folder, where contiguous folds would lack genuine pairs.
    """
    labels = check_issame("stratified_folds", issame)
    rng = np.random.default_rng(seed)
    shuffled = rng.permutation(labels.size)
    by_kind = shuffled[np.argsort(labels[shuffled], kind="stable")]
    fold_of_pair = np.empty(labels.size, dtype=np.int64)
    fold_of_pair[by_kind] = np.arange(labels.size) % num_folds
    return fold_of_pair
