"""Weighted measures against the plain ones on repeated pairs, and intervals against known answers."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation import (
    Draws,
    Resampling,
    accuracy_measure,
    auc,
    auc_interval,
    auc_measure,
    average,
    best_threshold,
    compare_scores,
    decide,
    fold_of_pairs,
    paired_bootstrap,
    paired_draws,
    rate_intervals,
    summarize,
    tar_at_far,
    tar_measure,
    verification,
)
from evaluation.protocols.bootstrap import _weights, draw_all
from evaluation.protocols.weighted import weighted_auc, weighted_tars_at_fars


def drawn_pairs(num_pairs=40, seed=0, decimals=1):
    rng = np.random.default_rng(seed)
    issame = np.arange(num_pairs) % 2 == 0
    return np.round(rng.normal(size=num_pairs) + issame, decimals), issame


def weighted_by_repeating(seed, num_pairs=40):
    """Return integer weights that leave every fold of 4 some pairs of both kinds, and the repeated places."""
    weights = np.random.default_rng(seed).integers(0, 4, num_pairs)
    weights[::10] = weights[1::10] = 1
    return weights, np.repeat(np.arange(num_pairs), weights)


@settings(max_examples=40)
@given(seed=st.integers(0, 10_000), rows=st.booleans())
def test_weighted_accuracy_is_the_accuracy_of_repeated_pairs(seed, rows):
    scores, issame = drawn_pairs(seed=seed)
    if rows:
        scores = np.round(scores + np.random.default_rng(seed).normal(size=(4, 40)), 1)
    weights, repeated = weighted_by_repeating(seed)
    expected = verification(scores[..., repeated], issame[repeated], fold_of_pairs(4, 40)[repeated]).accuracy
    measure = accuracy_measure(4)(scores, issame)
    assert measure(np.array([weights, weights], dtype=float)) == pytest.approx([expected] * 2, abs=1e-12)


@settings(max_examples=60)
@given(seed=st.integers(0, 10_000), far=st.sampled_from([0.05, 0.1, 0.3, 1.0]))
def test_weighted_tar_and_auc_are_those_of_repeated_pairs(seed, far):
    scores, issame = drawn_pairs(seed=seed)
    weights, repeated = weighted_by_repeating(seed)
    row = weights[None].astype(float)
    assert auc_measure()(scores, issame)(row)[0] == pytest.approx(auc(scores[repeated], issame[repeated]), abs=1e-12)
    expected = tar_at_far(scores[repeated], issame[repeated], [far])[far]
    if not np.isnan(expected):
        assert tar_measure(far)(scores, issame)(row)[0] == pytest.approx(expected, abs=1e-12)


def test_the_estimate_is_the_plain_difference():
    first, issame = drawn_pairs(400, 1)
    second, _ = drawn_pairs(400, 2)
    few = Resampling(num_resamples=20)
    expected = verification(first, issame).accuracy - verification(second, issame).accuracy
    assert paired_bootstrap(first, second, issame, resampling=few).estimate == pytest.approx(expected, abs=1e-12)
    expected = tar_at_far(first, issame, [0.02])[0.02] - tar_at_far(second, issame, [0.02])[0.02]
    interval = paired_bootstrap(first, second, issame, tar_measure(0.02), few)
    assert interval.estimate == pytest.approx(expected, abs=1e-12)


def test_a_method_does_not_differ_from_itself_or_its_increasing_transform():
    scores, issame = drawn_pairs(400)
    assert paired_bootstrap(scores, np.exp(scores), issame) == (0.0, 0.0, 0.0, 1000)


def test_the_pairing_cancels_what_both_methods_share():
    issame = np.arange(600) % 2 == 0
    rng = np.random.default_rng(0)
    shared = rng.normal(size=600) + 1.5 * issame
    first, second = shared + 0.3 * issame, shared
    interval = paired_bootstrap(first, second, issame, auc_measure())
    assert interval.lower > 0.01
    alone = auc_interval(first, issame)
    assert interval.upper - interval.lower < (alone.upper - alone.lower) / 3


def test_the_same_seed_repeats_and_another_does_not():
    scores, issame = drawn_pairs(100)
    assert auc_interval(scores, issame, Resampling(seed=3)) == auc_interval(scores, issame, Resampling(seed=3))
    assert auc_interval(scores, issame, Resampling(seed=3)) != auc_interval(scores, issame, Resampling(seed=4))


def test_auc_interval_over_pairs_covers_the_truth_about_as_often_as_it_says():
    truth, covered = 0.7602, 0  # P(N(1, 1) > N(0, 1)) = Phi(1 / sqrt(2))
    for seed in range(100):
        issame = np.arange(200) % 2 == 0
        scores = np.random.default_rng(seed).normal(size=200) + issame
        interval = auc_interval(scores, issame, Resampling(num_resamples=200, seed=seed))
        covered += interval.lower <= truth <= interval.upper
    assert 88 <= covered <= 100


def test_identity_weights_are_products_of_multiplicities():
    identities = np.array([[5, 5], [5, 9], [9, 2], [2, 2], [2, 5]])
    issame = identities[:, 0] == identities[:, 1]
    weights = np.concatenate(list(_weights(issame, Resampling(identities, 50))))
    of_5, of_2 = weights[:, 0], weights[:, 3]
    np.testing.assert_array_equal(weights[:, 4], of_2 * of_5)
    of_9 = 3 - of_5 - of_2  # three identities are drawn each time
    np.testing.assert_array_equal(weights[:, 1], of_5 * of_9)
    np.testing.assert_array_equal(weights[:, 2], of_9 * of_2)
    assert len(np.unique(weights, axis=0)) > 5


def test_pair_weights_keep_their_number():
    issame = np.arange(30) < 15
    weights = np.concatenate(list(_weights(issame, Resampling(num_resamples=40))))
    assert weights.shape == (40, 30)
    np.testing.assert_array_equal(weights.sum(1), 30)
    np.testing.assert_allclose(weights.mean(), 1)


def test_shared_identities_widen_the_interval():
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(15), 8)
    rows, columns = np.triu_indices(len(labels), 1)
    identities = labels[np.stack([rows, columns], axis=1)]
    issame = identities[:, 0] == identities[:, 1]
    # Some people are harder than others, which makes their pairs alike.
    scores = rng.normal(size=len(rows)) + issame * (1 + rng.normal(size=15))[identities[:, 0]]
    over_pairs = auc_interval(scores, issame, Resampling(num_resamples=200))
    over_identities = auc_interval(scores, issame, Resampling(identities, 200))
    assert over_identities.upper - over_identities.lower > 2 * (over_pairs.upper - over_pairs.lower)


def test_an_unresolved_far_has_no_interval():
    scores, issame = drawn_pairs(100)
    interval = paired_bootstrap(scores, -scores, issame, tar_measure(1e-3))
    assert np.isnan(interval[:3]).all() and interval.num_resamples == 0


def test_resamples_without_the_measure_are_left_out_and_counted():
    issame = np.array([True, False, False])
    interval = auc_interval([0.5, 0.1, 0.2], issame, Resampling(num_resamples=200))
    # The one genuine pair is drawn in 1 - (2/3)^3 = 70 % of the resamples, without any impostor in a few of those.
    assert 100 < interval.num_resamples < 170 and interval[:3] == (1.0, 1.0, 1.0)


@settings(max_examples=30)
@given(seed=st.integers(0, 10_000))
def test_several_limits_at_once_are_those_one_by_one(seed):
    scores, issame = drawn_pairs(seed=seed)
    weights = np.random.default_rng(seed).integers(0, 3, (5, 40)).astype(float)
    fars = [0.3, 0.05, 1e-3, 1.0]
    values = weighted_tars_at_fars(scores, issame, fars)(weights)
    assert values.shape == (5, 4) and np.isnan(values[:, 2]).all()
    assert weighted_tars_at_fars(scores, issame, [])(weights).shape == (5, 0)
    for column, far in enumerate(fars):
        np.testing.assert_array_equal(values[:, column], tar_measure(far)(scores, issame)(weights))


def test_draws_together_are_those_of_each_measure_alone():
    scores, issame = drawn_pairs(100)
    resampling = Resampling(num_resamples=30, seed=5)
    measures = [weighted_auc(scores, issame), weighted_tars_at_fars(scores, issame, [0.1, 0.5])]
    together = draw_all(["auc", "0.1", "0.5"], measures, issame, resampling)
    assert summarize(together["auc"]) == auc_interval(scores, issame, resampling)
    alone = paired_draws(scores, scores, issame, lambda *_: lambda w: measures[1](w)[:, 1], resampling)
    assert list(together) == ["auc", "0.1", "0.5"] and alone.values.shape == together["0.5"].values.shape
    assert together["0.1"].estimate == tar_at_far(scores, issame, [0.1])[0.1]


def test_average_over_benchmarks_and_percentiles():
    draws = average([Draws(0.2, np.arange(101.0)), Draws(0.4, np.arange(101.0) + 10)])
    assert summarize(draws) == (pytest.approx(0.3), pytest.approx(7.5), pytest.approx(102.5), 101)


def test_resamples_of_six_thousand_pairs_are_quick():
    scores, issame = drawn_pairs(6000, decimals=6)
    start = time.process_time()
    paired_draws(scores, -scores, issame, resampling=Resampling(num_resamples=200))
    assert time.process_time() - start < 3  # about 0.3 s on an idle core; a loop over pairs takes minutes


@pytest.mark.parametrize(
    ("identities", "message"),
    [
        (np.zeros((3, 2), int), r"identities must be \[4, 2\]"),
        (np.array([[1, 1], [1, 2], [3, 3], [4, 4]]), r"pair 3 with identities \[4, 4\] and issame False"),
        (np.array([[1, 1], [1, 2], [3, 4], [3, 4]]), "pair 2"),
    ],
)
def test_refused_identities(identities, message):
    with pytest.raises(ValueError, match=message):
        auc_interval([0.1, 0.2, 0.3, 0.4], np.array([True, False, True, False]), Resampling(identities))


def test_one_identity_is_refused():
    with pytest.raises(ValueError, match="at least two identities"):
        resampling = Resampling(np.ones((2, 2), int))
        paired_bootstrap([0.1, 0.2], [0.1, 0.2], np.array([True, True]), accuracy_measure(2), resampling)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_rates_of_decisions_are_those_of_repeated_pairs(seed):
    scores, issame = drawn_pairs(seed=seed)
    people = np.stack([np.arange(40) // 4, np.arange(40) // 4 + 10 * (1 - issame)], axis=1)
    accepted = scores > 0.4
    resampling = Resampling(people, 25, seed)
    weights = np.concatenate(list(_weights(issame, resampling))).astype(int)
    for rate, chosen in (("accuracy", issame | True), ("tar", issame), ("far", ~issame)):
        right = accepted == issame if rate == "accuracy" else accepted
        found = getattr(rate_intervals(accepted, issame, resampling), rate)
        drawn = [np.repeat(right[chosen], row[chosen]).mean() for row in weights if row[chosen].sum()]
        assert found.estimate == pytest.approx(right[chosen].mean())
        assert found.num_resamples == len(drawn)
        assert (found.lower, found.upper) == pytest.approx(tuple(np.quantile(drawn, [0.025, 0.975])))


def test_ten_thousand_draws_over_people_at_a_fixed_threshold_take_seconds():
    rng = np.random.default_rng(0)
    issame = np.arange(6000) < 3000
    first = rng.integers(5749, size=6000)
    people = np.stack([first, np.where(issame, first, (first + 1) % 5749)], axis=1)
    start = time.process_time()
    interval = rate_intervals(rng.random(6000) < 0.9, issame, Resampling(people, 10_000, 0)).tar
    assert interval.num_resamples == 10_000 and 0.88 < interval.lower < interval.estimate < interval.upper < 0.92
    assert time.process_time() - start < 5


def test_a_comparison_tells_a_better_method_from_an_equal_one():
    scores, issame = drawn_pairs(600, seed=3, decimals=6)
    noise = np.random.default_rng(1).normal(size=(2, 600))
    resampling = Resampling(num_resamples=500)
    better = compare_scores(scores + 0.2 * noise[0], scores + 2 * noise[1], issame, auc_measure(), resampling)
    assert better.first == pytest.approx(auc(scores + 0.2 * noise[0], issame))
    assert better.second == pytest.approx(auc(scores + 2 * noise[1], issame))
    assert better.difference.estimate == pytest.approx(better.first - better.second) and better.difference.lower > 0
    assert better.p_value == pytest.approx(2 / 501)
    turned = compare_scores(scores + 2 * noise[1], scores + 0.2 * noise[0], issame, auc_measure(), resampling)
    assert turned.difference.estimate == -better.difference.estimate and turned.p_value == better.p_value
    same = compare_scores(scores, np.exp(scores), issame, auc_measure(), resampling)
    assert same.p_value == 1.0 and same.difference.estimate == 0


def test_p_values_of_equal_methods_are_below_a_tenth_about_as_often_as_that():
    values = []
    for seed in range(120):
        scores, issame = drawn_pairs(200, seed, decimals=6)
        first, second = scores + np.random.default_rng(seed + 1000).normal(size=(2, 200))
        values.append(compare_scores(first, second, issame, auc_measure(), Resampling(num_resamples=200)).p_value)
    assert 0.03 < np.mean(np.array(values) < 0.1) < 0.2


def test_a_threshold_fitted_on_the_test_part_flatters_chance_and_the_protocol_does_not():
    """The planted leak: scores that say nothing, and a threshold for each fold from its own pairs."""
    honest, leaked = [], []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        scores, issame = rng.normal(size=100), np.arange(100) % 2 == 0
        result = verification(scores, issame)
        fold = fold_of_pairs(10, 100)
        own = [best_threshold(scores[fold == f], issame[fold == f]) for f in range(10)]
        decisions = decide(scores, result.fold_threshold)
        assert np.mean(decisions == issame) == pytest.approx(result.accuracy)
        honest.append(result.accuracy)
        leaked.append(np.mean(decide(scores, own) == issame))
    assert abs(np.mean(honest) - 0.5) < 0.03  # a leak in `verification` would show here
    assert np.mean(leaked) > 0.6


def test_no_answer_of_a_fold_moves_its_own_threshold():
    scores, issame = drawn_pairs(100, seed=5, decimals=6)
    plain = verification(scores, issame).fold_threshold
    for fold in range(10):
        test = fold_of_pairs(10, 100) == fold
        turned = np.where(test, ~issame, issame)
        assert verification(scores, turned).fold_threshold[fold] == plain[fold]
        moved = np.where(test, scores + np.random.default_rng(fold).normal(size=100), scores)
        assert verification(moved, issame).fold_threshold[fold] == plain[fold]


@pytest.mark.parametrize(("accepted", "message"), [([1, 0], "must be bool"), (np.array([True]), r"must be bool \[2\]")])
def test_refused_decisions(accepted, message):
    with pytest.raises(ValueError, match=message):
        rate_intervals(accepted, np.array([True, False]))
