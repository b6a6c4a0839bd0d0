"""Thresholds, intervals and draws against slow and plain ways to the same numbers."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluation import clopper_pearson
from models.rates import PeopleDraws, threshold_at

SCORES = st.lists(st.integers(0, 12), min_size=1, max_size=40)


@given(SCORES, st.floats(0.01, 1))
def test_a_threshold_is_the_lowest_impostor_score_that_keeps_the_rate(scores, far):
    if far * len(scores) < 1:
        with pytest.raises(ValueError, match="cannot show a FAR"):
            threshold_at(scores, far)
        return
    threshold = threshold_at(scores, far)

    def rate(limit):
        return sum(score >= limit for score in scores) / len(scores)

    allowed = [score for score in set(scores) if rate(score) <= far]
    assert threshold == (min(allowed) if allowed else np.nextafter(max(scores), np.inf))
    assert rate(threshold) <= far


@pytest.mark.parametrize(("accepted", "pairs"), [(0, 10), (10, 10), (1, 7), (3, 1000), (999, 1000), (5000, 20_000)])
def test_the_exact_interval_is_that_of_the_beta_distribution(accepted, pairs):
    beta = pytest.importorskip("scipy.stats").beta
    lower = 0.0 if accepted == 0 else beta.ppf(0.025, accepted, pairs - accepted + 1)
    upper = 1.0 if accepted == pairs else beta.ppf(0.975, accepted + 1, pairs - accepted)
    assert clopper_pearson(accepted, pairs) == pytest.approx((lower, upper), abs=1e-9)


@pytest.mark.parametrize("same", [False, True])
def test_draws_of_people_weigh_pairs_as_a_loop_does(same):
    rng = np.random.default_rng(3)
    ways = [(p, p) for p in range(5)] if same else list(itertools.combinations(range(5), 2))
    people = np.array([way for way in ways for _ in range(4)])
    accepted = rng.random(len(people)) < 0.4
    draws = PeopleDraws(people, num_draws=200, seed=7)
    multiplicities = np.random.default_rng(7).multinomial(5, np.full(5, 0.2), size=200)
    shares = []
    for drawn in multiplicities:
        weights = [drawn[p] if p == q else drawn[p] * drawn[q] for p, q in people]
        if sum(weights):
            shares.append(np.dot(weights, accepted) / sum(weights))
    rate = draws.rate(accepted)
    assert (rate.lower, rate.upper) == pytest.approx(tuple(np.quantile(shares, [0.025, 0.975])))
    assert (rate.accepted, rate.pairs) == (accepted.sum(), len(people))
    assert rate.value == pytest.approx(accepted.mean())


def test_where_no_draw_differs_the_interval_is_the_exact_one():
    people = np.array([[0, 1], [0, 2], [1, 2]])
    rate = PeopleDraws(people).rate(np.zeros(3, bool))
    assert (rate.lower, rate.upper) == (rate.exact_lower, rate.exact_upper) == (0.0, clopper_pearson(0, 3)[1])
    assert rate.upper > 0.5


def test_pairs_that_share_people_have_a_wider_interval_than_the_exact_one():
    # One person of ten looks like everybody: 9 of 45 pairs, which come and go together.
    people = np.array(list(itertools.combinations(range(10), 2)))
    rate = PeopleDraws(people).rate(people[:, 0] == 0)
    assert rate.upper - rate.lower > 1.3 * (rate.exact_upper - rate.exact_lower)
