"""Means over drawings of occluders, their spread, and intervals that include it."""

import numpy as np
import pytest

from evaluation import Draws, Resampling, evaluate_pairs, stratified_folds, summarize
from evaluation.protocols.measured import mean_draws, mean_measured

WEIGHTS = {"adaface": 0.5, "qaconv": 0.5}


def measured(seed, num_impostors=200, fars=(0.1, 1e-3)):
    rng = np.random.default_rng(seed)
    issame = np.arange(200 + num_impostors) < 200
    scores = {name: rng.normal(size=issame.size) + 1.5 * issame for name in WEIGHTS}
    results = evaluate_pairs(scores, issame, WEIGHTS, stratified_folds(issame))
    return results["combined"].measure(Resampling(num_resamples=100), fars)


def test_one_draw_stays_as_it_is():
    only = measured(0)
    assert mean_measured([only]) is only and "occlusion_draws" not in only.to_dict()
    assert mean_draws([only.draws["auc"]]) is only.draws["auc"]


def test_figures_are_means_and_their_spread_is_stated():
    parts = [measured(seed) for seed in range(4)]
    entries, mean = [part.to_dict() for part in parts], mean_measured(parts).to_dict()
    assert mean.keys() == entries[0].keys() | {"occlusion_draws"}
    assert mean["occlusion_draws"]["num"] == 4 and mean["num_genuine"] == 200
    for name in ("accuracy", "balanced_accuracy", "auc", "eer"):
        values = [entry[name] for entry in entries]
        assert mean[name] == pytest.approx(np.mean(values))
        assert mean["occlusion_draws"]["std"][name] == pytest.approx(np.std(values, ddof=1)) and np.std(values) > 0
    tars = [entry["tar_at_far"]["0.1"]["tar"] for entry in entries]
    assert mean["tar_at_far"]["0.1"]["tar"] == pytest.approx(np.mean(tars))
    assert mean["occlusion_draws"]["std"]["tar_at_far"] == {"0.1": pytest.approx(np.std(tars, ddof=1)), "0.001": None}
    unresolved = mean["tar_at_far"]["0.001"]
    assert unresolved["tar"] is unresolved["interval"] is None and "needs at least 1,000" in unresolved["note"]
    np.testing.assert_allclose(mean["roc"]["tar"], np.mean([entry["roc"]["tar"] for entry in entries], axis=0))
    np.testing.assert_allclose(mean["fold_accuracy"], np.mean([entry["fold_accuracy"] for entry in entries], axis=0))
    assert mean["histogram"] == entries[0]["histogram"]
    for interval, value in (
        (mean["accuracy_interval"], mean["accuracy"]),
        (mean["auc_interval"], mean["auc"]),
        (mean["tar_at_far"]["0.1"]["interval"], mean["tar_at_far"]["0.1"]["tar"]),
    ):
        assert interval["estimate"] == pytest.approx(value) and 0 <= interval["lower"] < value < interval["upper"] <= 1


@pytest.mark.parametrize("num", [2, 3, 5])
def test_the_interval_has_the_variance_of_people_and_of_the_mean_over_draws(num):
    rng = np.random.default_rng(num)
    people = 0.02 * rng.normal(size=40_000)  # the same people in every draw
    offsets = 0.05 * rng.normal(size=num)
    mean = mean_draws([Draws(0.5 + offset, 0.5 + offset + people) for offset in offsets])
    assert mean.estimate == pytest.approx(0.5 + offsets.mean())
    assert mean.values.var() == pytest.approx(0.02**2 + offsets.var(ddof=1) / num, rel=0.05)


def test_draws_that_agree_leave_the_interval_of_people():
    part = Draws(0.5, np.random.default_rng(0).normal(size=500))
    assert summarize(mean_draws([part, part, part])) == pytest.approx(summarize(part))


def test_the_same_drawings_count_in_every_measure_so_that_differences_stay_paired():
    values = np.random.default_rng(0).normal(size=(3, 200))
    first, second = ([Draws(0.0, row + shift) for row in values] for shift in (0.0, 0.25))
    np.testing.assert_allclose(mean_draws(second, seed=3).values - mean_draws(first, seed=3).values, 0.25)
