"""ROC, TAR at FAR and validation rate against the golden vectors, scikit-learn and counting."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from programs import ROOT
from scipy.stats import binom
from sklearn import metrics
from sklearn.metrics import roc_auc_score

from evaluation import (
    auc,
    clopper_pearson,
    det,
    eer,
    fold_mean_rates,
    operating_point,
    roc_curve,
    roc_points,
    tar_at_far,
    tar_at_nearest_far,
    validation_rate,
)
from evaluation.protocols.roc import det_points

GOLDEN = ROOT / "tests" / "golden" / "verification"


@pytest.fixture(scope="module")
def golden_pairs():
    golden = np.load(GOLDEN / "pairs_10fold.npz")
    pairs = golden["embeddings"].reshape(-1, 2, 128)
    return golden, -((pairs[:, 0] - pairs[:, 1]) ** 2).sum(1)


@pytest.fixture(scope="module")
def golden_matrix():
    golden = np.load(GOLDEN / "score_matrix.npz")
    rows, columns = np.triu_indices(len(golden["labels"]), 1)
    return golden, golden["scores"][rows, columns], golden["labels"][rows] == golden["labels"][columns]


def drawn_pairs(num_pairs, seed):
    rng = np.random.default_rng(seed)
    issame = rng.random(num_pairs) < 0.5
    issame[:2] = True, False
    return np.round(rng.normal(size=num_pairs) + issame, 1), issame


def naive_tar_at_far(scores, issame, far):
    best = 0.0
    for threshold in set(scores):
        accepted = scores >= threshold
        if accepted[~issame].sum() / (~issame).sum() <= far:
            best = max(best, accepted[issame].mean())
    return best


@pytest.mark.parametrize("name", ["1e-4", "1e-3", "1e-2"])
def test_golden_tar_at_far(golden_matrix, name):
    golden, scores, issame = golden_matrix
    assert issame.sum() == golden["n_genuine"] and (~issame).sum() == golden["n_impostor"]
    assert tar_at_far(scores, issame, [float(name)])[float(name)] == float(golden[f"tar_at_far{name}"])
    point = operating_point(roc_curve(scores, issame), float(name))
    assert point.far == float(golden[f"far_reached_far{name}"])
    assert point.num_false_accepts == int(golden[f"n_false_accepts_far{name}"])
    assert point.threshold == float(golden[f"threshold_far{name}"])


@pytest.mark.parametrize("name", ["1e-3", "1e-2"])
def test_golden_validation_rate(golden_pairs, name):
    golden, scores = golden_pairs
    result = validation_rate(scores, golden["issame"], float(name), -golden["val_thresholds"])
    expected = [golden[f"val_{what}_far{name}"] for what in ("mean", "std", "far_mean")]
    np.testing.assert_allclose(result, expected, rtol=0, atol=1e-12)


def test_golden_mean_rates_over_folds(golden_pairs):
    golden, scores = golden_pairs
    tar, far = fold_mean_rates(scores, golden["issame"], -golden["thresholds"])
    np.testing.assert_allclose(tar, golden["tpr"], rtol=0, atol=1e-12)
    np.testing.assert_allclose(far, golden["fpr"], rtol=0, atol=1e-12)


def test_validation_rate_accepts_nothing_where_the_thresholds_do_not_reach_the_far(golden_pairs):
    golden, scores = golden_pairs
    strict = validation_rate(scores, golden["issame"], 0.5, [-0.1, -0.2])  # largest training FAR stays below
    lenient = validation_rate(scores, golden["issame"], 1e-3, [-4.0, -3.9])  # smallest stays above
    assert strict == lenient == (0.0, 0.0, 0.0)


@settings(max_examples=60)
@given(num_pairs=st.integers(4, 60), seed=st.integers(0, 10_000), far=st.sampled_from([0.05, 0.1, 0.25, 0.5, 1.0]))
def test_tar_at_far_agrees_with_counting(num_pairs, seed, far):
    scores, issame = drawn_pairs(num_pairs, seed)
    result = tar_at_far(scores, issame, [far])[far]
    if far * (~issame).sum() < 1:
        assert np.isnan(result)
    else:
        assert result == naive_tar_at_far(scores, issame, far)


@settings(max_examples=40)
@given(seed=st.integers(0, 10_000), transform=st.sampled_from([np.exp, np.arctan, lambda s: 3 * s - 7]))
def test_an_increasing_transform_changes_neither_tar_nor_auc(seed, transform):
    scores, issame = drawn_pairs(80, seed)
    fars = [0.05, 0.2]
    np.testing.assert_equal(tar_at_far(transform(scores), issame, fars), tar_at_far(scores, issame, fars))
    assert auc(transform(scores), issame) == auc(scores, issame)


@settings(max_examples=40)
@given(num_pairs=st.integers(4, 60), seed=st.integers(0, 10_000))
def test_auc_agrees_with_scikit_learn(num_pairs, seed):
    scores, issame = drawn_pairs(num_pairs, seed)
    assert auc(scores, issame) == pytest.approx(roc_auc_score(issame, scores), abs=1e-12)


def test_tied_pairs_are_accepted_together():
    scores = np.array([0.9, 0.5, 0.5, 0.5, 0.1, 0.0])
    issame = np.array([True, True, True, False, False, False])
    assert tar_at_far(scores, issame, [1 / 3])[1 / 3] == 1.0
    scores[4] = 0.5  # a second impostor joins the tie, which now costs more than one false accept
    assert tar_at_far(scores, issame, [1 / 3])[1 / 3] == pytest.approx(1 / 3)


def test_a_far_met_exactly_counts_and_one_below_resolution_does_not():
    issame = np.arange(1010) < 10
    scores = np.where(issame, 0.5, np.linspace(0, 0.4, 1010))
    scores[-1] = 1.0
    result = tar_at_far(scores, issame, [1e-3, 9e-4])
    assert result[1e-3] == 1.0 and np.isnan(result[9e-4])


def test_without_impostors_no_far_is_resolved():
    assert np.isnan(tar_at_far([0.1, 0.2], np.array([True, True]), [0.1])[0.1])


def test_roc_points_lie_on_the_curve_from_the_smallest_far_to_one():
    scores, issame = drawn_pairs(400, 1)
    far, tar = roc_points(roc_curve(scores, issame), 50)
    assert far[0] == 1 / (~issame).sum() and far[-1] == 1 and tar[-1] == 1
    for limit, rate in zip(far, tar, strict=True):
        assert rate == naive_tar_at_far(scores, issame, limit)


@settings(deadline=None, max_examples=40)
@given(num_pairs=st.integers(4, 3000), seed=st.integers(0, 1000), num_points=st.integers(1, 40))
def test_a_thinned_det_keeps_exact_points_both_ends_and_the_best_one_within_each_limit(num_pairs, seed, num_points):
    scores, issame = drawn_pairs(num_pairs, seed)
    whole = det(scores, issame)
    thinned = det_points(roc_curve(scores, issame), num_points)
    points, kept = (list(zip(*curve, strict=True)) for curve in (whole, thinned))
    points = [point for point in points if np.isfinite(point[2])]
    assert set(kept) <= set(points) and len(set(kept)) == len(kept) <= 2 * num_points + 2
    assert (kept[0], kept[-1]) == (points[0], points[-1]) and (np.diff(thinned[2]) > 0).all()
    for fmr, fnmr, threshold in kept:
        rates = np.mean(scores[~issame] >= threshold), np.mean(scores[issame] < threshold)
        np.testing.assert_allclose((fmr, fnmr), rates, rtol=0, atol=1e-12)
    for axis, other in ((0, 1), (1, 0)):
        smallest = min((point[axis] for point in points if point[axis] > 0), default=1)
        for limit in np.geomspace(smallest, 1, num_points) * (1 + 1e-9):
            within = [point for point in points if point[axis] <= limit]
            if within:
                assert min(within, key=lambda point: (-point[axis], point[other])) in kept


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: tar_at_far([0.1, 0.2], np.array([False, False]), [0.5]), "at least one genuine"),
        (lambda: tar_at_far([0.1, 0.2], np.array([True, False]), [0.0]), r"must lie in \(0, 1\]"),
        (lambda: tar_at_far([np.nan, 0.2], np.array([True, False]), [0.5]), r"tar_at_far: .*NaN at \[0\]"),
        (lambda: auc([0.1, 0.2], np.array([True, True])), "both needed, got 2 genuine and 0 impostor"),
        (lambda: auc([0.1], np.array([True, False])), r"scores must be \[2\]"),
        (lambda: validation_rate([0.1] * 4, np.array([True, True, False, False]), 0.1, [0.5], 2), "fold 0"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("name", ["continuous", "ties", "small", "separable"])
def test_golden_eer_and_det(name):
    golden = np.load(GOLDEN / "eer_det.npz")
    genuine, impostor = golden[f"{name}_genuine"], golden[f"{name}_impostor"]
    scores, issame = np.concatenate([impostor, genuine]), np.repeat([False, True], [len(impostor), len(genuine)])
    assert eer(scores, issame) == pytest.approx(float(golden[f"{name}_eer_interpolated"]), abs=1e-12)
    expected = [golden[f"{name}_det_{what}"] for what in ("fpr", "fnr", "thresholds")]
    for found, wanted in zip(det(scores, issame), expected, strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-12, rtol=0)
    for limit in ("0.01", "0.001"):
        point = operating_point(roc_curve(scores, issame), float(limit))
        assert point.num_false_accepts == int(golden[f"{name}_false_accepts_at_fmr_{limit}"])
        assert 1 - point.tar == pytest.approx(float(golden[f"{name}_fnmr_at_fmr_{limit}"]), abs=1e-12)
        interval = clopper_pearson(point.num_false_accepts, len(impostor))
        expected = golden[f"{name}_fmr_clopper_pearson_95_at_{limit}"]
        np.testing.assert_allclose(interval, expected, rtol=0, atol=1e-12)


@settings(deadline=None, max_examples=50)
@given(num_pairs=st.integers(4, 60), seed=st.integers(0, 1000))
def test_eer_lies_between_the_rates_beside_the_crossing_and_is_the_same_from_the_other_side(num_pairs, seed):
    scores, issame = drawn_pairs(num_pairs, seed)
    rates = [
        ((scores[~issame] >= threshold).mean(), (scores[issame] < threshold).mean())
        for threshold in [*sorted(set(scores)), np.inf]
    ]
    low = max(min(rate) for rate in rates)  # fmr falls and fnmr rises with the threshold
    high = min(max(rate) for rate in rates)
    assert low - 1e-12 <= eer(scores, issame) <= high + 1e-12
    assert eer(-scores, ~issame) == pytest.approx(eer(scores, issame), abs=1e-12)


def test_eer_of_equal_scores_is_a_half_and_of_inverted_ones_one():
    issame = np.array([True, False, True, False, False])
    assert eer(np.zeros(5), issame) == 0.5
    assert eer(issame.astype(float), issame) == 0.0
    assert eer(-issame.astype(float), issame) == 1.0


@settings(deadline=None, max_examples=60)
@given(num_pairs=st.integers(4, 60), seed=st.integers(0, 10_000))
def test_det_eer_and_nearest_far_agree_with_scikit_learn(num_pairs, seed):
    scores, issame = drawn_pairs(num_pairs, seed)
    for found, wanted in zip(det(scores, issame), metrics.det_curve(issame, scores), strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-12, rtol=0)
    far, tar, _ = metrics.roc_curve(issame, scores, drop_intermediate=False)
    crossing = np.interp(0.0, far - (1 - tar), far)
    assert eer(scores, issame) == pytest.approx(crossing, abs=1e-12)
    far, tar, _ = (side[::-1] for side in metrics.roc_curve(issame, scores))
    wanted = [1e-6, 0.03, 0.1, 0.25, 0.5, 1.0]
    expected = {limit: tar[np.argmin(np.abs(far - limit))] for limit in wanted}
    assert tar_at_nearest_far(scores, issame, wanted) == expected


def test_the_two_conventions_of_tar_at_far_differ_where_no_point_meets_the_far():
    issame = np.arange(30) < 10
    scores = np.where(issame, np.arange(30) % 10, -1.0)
    scores[[20, 21, 22]] = 4.5, 3.5, 2.5  # 0, 1, 2, 3 false accepts of 20 for TARs of 0.5, 0.6, 0.7, 1
    assert tar_at_far(scores, issame, [0.09]) == {0.09: 0.6}
    assert tar_at_nearest_far(scores, issame, [0.09]) == {0.09: 0.7}


@settings(deadline=None, max_examples=60)
@given(num_trials=st.integers(1, 400), share=st.floats(0, 1), confidence=st.sampled_from([0.8, 0.95, 0.99]))
def test_clopper_pearson_ends_where_what_was_seen_becomes_improbable(num_trials, share, confidence):
    num_found = round(share * num_trials)
    lower, upper = clopper_pearson(num_found, num_trials, confidence)
    tail = (1 - confidence) / 2
    assert 0 <= lower <= num_found / num_trials <= upper <= 1
    if num_found:
        assert binom.sf(num_found - 1, num_trials, lower) == pytest.approx(tail, rel=1e-6)
    if num_found < num_trials:
        assert binom.cdf(num_found, num_trials, upper) == pytest.approx(tail, rel=1e-6)


def test_three_trials_without_an_error_follow_the_rule_of_three():
    assert clopper_pearson(0, 1000)[1] == pytest.approx(3.7 / 1000, rel=0.01)
    for arguments in ((5, 4), (-1, 4), (0, 0), (1, 4, 1.0)):
        with pytest.raises(ValueError, match="0 <= num_found <= num_trials"):
            clopper_pearson(*arguments)


def test_float32_scores_give_the_figures_of_the_same_numbers_in_float64():
    scores, issame = drawn_pairs(500, 3)
    narrow, fars = scores.astype(np.float32), [0.02, 0.1, 1.0]
    assert auc(narrow, issame) == auc(narrow.astype(np.float64), issame)
    assert tar_at_far(narrow, issame, fars) == tar_at_far(narrow.astype(np.float64), issame, fars)
    assert narrow.tolist() == scores.astype(np.float32).tolist()  # sorting left the caller's array alone
