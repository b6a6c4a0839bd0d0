"""Cross-validated accuracy against the golden vectors, a loop over every threshold, and its own rules."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from programs import ROOT

from evaluation import best_threshold, fold_of_pairs, stratified_folds, verification

GOLDEN = ROOT / "tests" / "golden" / "verification" / "pairs_10fold.npz"


def naive_verification(scores, issame, fold_of_pair, thresholds=None):
    """Try every threshold on every pair, in plain Python."""
    accuracies, chosen = [], []
    for fold in range(max(fold_of_pair) + 1):
        row = scores[fold] if scores.ndim == 2 else scores
        candidates = [-np.inf, *sorted(set(row))] if thresholds is None else thresholds
        best, best_right = None, -1
        for threshold in candidates:
            right = sum((s > threshold) == y for s, y, f in zip(row, issame, fold_of_pair, strict=True) if f != fold)
            if right > best_right:
                best, best_right = threshold, right
        test = [(s > best) == y for s, y, f in zip(row, issame, fold_of_pair, strict=True) if f == fold]
        accuracies.append(sum(test) / len(test))
        chosen.append(best)
    return accuracies, chosen


def drawn_pairs(num_pairs, seed, decimals=1):
    """Return scores with many ties, and labels."""
    rng = np.random.default_rng(seed)
    issame = rng.random(num_pairs) < 0.5
    return np.round(rng.normal(size=num_pairs) + issame, decimals), issame


def test_golden_ten_folds():
    golden = np.load(GOLDEN)
    pairs = golden["embeddings"].reshape(-1, 2, 128)
    scores = -((pairs[:, 0] - pairs[:, 1]) ** 2).sum(1)
    result = verification(scores, golden["issame"], 10, -golden["thresholds"])
    np.testing.assert_array_equal(result.fold_accuracy, golden["accuracy"])
    np.testing.assert_array_equal(-result.fold_threshold, golden["best_thresholds"])
    assert result.accuracy == pytest.approx(float(golden["accuracy_mean"]), abs=1e-12)
    assert result.std == pytest.approx(float(golden["accuracy_std"]), abs=1e-12)


@settings(max_examples=40)
@given(num_pairs=st.integers(4, 40), num_folds=st.integers(2, 4), seed=st.integers(0, 10_000), rows=st.booleans())
def test_agrees_with_a_loop_over_all_thresholds(num_pairs, num_folds, seed, rows):
    scores, issame = drawn_pairs(num_pairs, seed)
    if rows:
        scores = scores + np.round(np.random.default_rng(seed).normal(size=(num_folds, num_pairs)), 1)
    expected = naive_verification(scores, issame, fold_of_pairs(num_folds, num_pairs))
    result = verification(scores, issame, num_folds)
    np.testing.assert_allclose(result.fold_accuracy, expected[0], rtol=0, atol=1e-12)
    np.testing.assert_array_equal(result.fold_threshold, expected[1])


def test_given_thresholds_are_tried_in_their_order():
    scores, issame = np.array([0.0, 0.2, 0.8, 1.0] * 2), np.array([False, False, True, True] * 2)
    for thresholds in ([0.3, 0.5, 0.7], [0.7, 0.5, 0.3], [0.9, 0.5, 0.3]):
        expected = naive_verification(scores, issame, [0] * 4 + [1] * 4, thresholds)
        assert verification(scores, issame, 2, thresholds).fold_threshold.tolist() == expected[1]
    assert best_threshold(scores, issame, np.array([0.7, 0.5])) == 0.7


def test_a_pair_at_the_threshold_is_rejected():
    result = verification([0.5, 0.5, 0.5, 0.5], np.array([False] * 4), 2, [0.5])
    assert result.accuracy == 1.0


def test_uninformative_scores_accept_everything_when_most_are_genuine():
    result = verification(np.zeros(10), np.array([True] * 7 + [False] * 3), np.arange(10) % 2)
    assert result.fold_threshold.tolist() == [-np.inf, -np.inf]
    assert result.accuracy == pytest.approx(0.7)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10_000), num_folds=st.integers(2, 4))
def test_balanced_accuracy_is_that_of_a_loop_over_every_threshold_and_both_kinds(seed, num_folds):
    scores, _ = drawn_pairs(60, seed)
    issame = np.arange(60) % 5 == 0  # a fifth is genuine
    folds = np.arange(60) // 5 % num_folds
    result = verification(scores, issame, folds, balanced=True)
    for fold in range(num_folds):
        train, test = folds != fold, folds == fold
        shares = [  # exact fractions of both kinds
            Fraction(int((scores[train & issame] > t).sum()), int((train & issame).sum()))
            + Fraction(int((scores[train & ~issame] <= t).sum()), int((train & ~issame).sum()))
            for t in [-np.inf, *sorted(set(scores[train]))]
        ]
        threshold = [-np.inf, *sorted(set(scores[train]))][shares.index(max(shares))]
        right = (scores > threshold) == issame
        expected = (right[test & issame].mean() + right[test & ~issame].mean()) / 2
        assert (result.fold_threshold[fold], result.fold_accuracy[fold]) == (threshold, pytest.approx(expected))


def test_balanced_accuracy_of_a_fold_of_one_kind_is_refused():
    with pytest.raises(ValueError, match="verification, fold 0: genuine and impostor pairs are both needed"):
        verification(np.arange(8), np.arange(8) < 4, 2, balanced=True)


@settings(max_examples=30)
@given(seed=st.integers(0, 10_000), fold=st.integers(0, 4))
def test_a_fold_does_not_choose_its_own_threshold(seed, fold):
    scores, issame = drawn_pairs(60, seed)
    before = verification(scores, issame, 5).fold_threshold[fold]
    test = fold_of_pairs(5, 60) == fold
    scores[test] = np.random.default_rng(seed).normal(size=test.sum()) * 7
    assert verification(scores, issame, 5).fold_threshold[fold] == before


def test_torch_and_list_inputs_give_the_same_result():
    torch = pytest.importorskip("torch")
    scores, issame = drawn_pairs(40, 3)
    expected = verification(scores, issame, 4)
    for given_scores, labels in ((scores.tolist(), issame.tolist()), (torch.tensor(scores), torch.tensor(issame))):
        assert verification(given_scores, labels, 4).accuracy == expected.accuracy


@pytest.mark.parametrize("count", [2, 3, 7, 10])
def test_counted_folds_are_contiguous_and_cut_as_kfold_cuts(count):
    from sklearn.model_selection import KFold

    folds = fold_of_pairs(count, 23)
    for fold, (_, test) in enumerate(KFold(count).split(np.zeros(23))):
        np.testing.assert_array_equal(np.flatnonzero(folds == fold), test)


def test_array_folds_are_numbered_by_value():
    assert fold_of_pairs(np.array([7, -1, 7, 3]), 4).tolist() == [2, 0, 2, 1]


def test_stratified_folds_spread_both_kinds_evenly_and_repeatably():
    issame = np.arange(103) < 17
    folds = stratified_folds(issame, 10, seed=4)
    np.testing.assert_array_equal(folds, stratified_folds(issame, 10, seed=4))
    assert not np.array_equal(folds, stratified_folds(issame, 10, seed=5))
    for kind in (issame, ~issame):
        counts = np.bincount(folds[kind], minlength=10)
        assert counts.max() - counts.min() <= 1


@pytest.mark.parametrize(
    ("scores", "issame", "folds", "thresholds", "error", "message"),
    [
        ([0.1, np.nan, 0.3, 0.4], [True, False] * 2, 2, None, ValueError, r"NaN at \[1\]"),
        ([[0.1] * 4, [0.1, 0.2, np.nan, 0.4]], [True, False] * 2, 2, None, ValueError, r"NaN at \[1, 2\]"),
        ([0.1, 0.2, 0.3], [True, False] * 2, 2, None, ValueError, r"scores must be \[4\] or \[2, 4\]"),
        ([[0.1] * 4] * 3, [True, False] * 2, 2, None, ValueError, r"got \[3, 4\]"),
        ([0.1] * 4, [1, 0, 1, 0], 2, None, TypeError, "issame must be bool"),
        ([], [], 2, None, ValueError, "issame must be"),
        ([0.1] * 4, [True, False] * 2, 5, None, ValueError, "between 2 and the number of pairs 4"),
        ([0.1] * 4, [True, False] * 2, 1, None, ValueError, "between 2"),
        ([0.1] * 4, [True, False] * 2, [0, 0, 0, 0], None, ValueError, "two distinct folds"),
        ([0.1] * 4, [True, False] * 2, [0, 1, 1], None, ValueError, r"must be \[4\]"),
        ([0.1] * 4, [True, False] * 2, [0.0, 1.0, 1.0, 0.0], None, TypeError, "must be integer"),
        ([0.1] * 4, [True, False] * 2, 2, [], ValueError, "thresholds must be"),
        ([0.1] * 4, [True, False] * 2, 2, [0.1, np.nan], ValueError, "1 NaN"),
    ],
)
def test_refusals(scores, issame, folds, thresholds, error, message):
    with pytest.raises(error, match=message):
        verification(scores, issame, folds, thresholds)


@pytest.mark.parametrize("balanced", [False, True])
def test_thresholds_from_scores_sorted_once_are_those_of_each_fold_by_itself(balanced):
    rng = np.random.default_rng(0)
    for number in range(60):
        issame = rng.permutation(np.arange(30) % 3 == 0)
        folds = stratified_folds(issame, 3, seed=number)
        scores = rng.integers(0, 2 + number, 30) / 7.0  # with ties
        scores[rng.integers(30, size=2)] = -np.inf, np.inf
        found = verification(scores, issame, folds, balanced=balanced).fold_threshold
        own = [best_threshold(scores[folds != f], issame[folds != f], balanced=balanced) for f in range(3)]
        assert found.tolist() == own
