"""The protocol puts the measures together: which methods, from which scores, and what cannot be resolved."""

import numpy as np
import pytest

from evaluation import (
    Resampling,
    accuracy_measure,
    auc,
    combine_folds,
    eer,
    evaluate_pairs,
    fit_statistics,
    fuse,
    fuse_with,
    paired_draws,
    stratified_folds,
    tar_at_far,
    tar_measure,
    verification,
)
from evaluation.protocols.protocol import score_histogram

WEIGHTS = {"adaface": 0.5, "qaconv": 0.5}


def drawn_scores(num_pairs=400, seed=0):
    rng = np.random.default_rng(seed)
    issame = np.arange(num_pairs) % 2 == 0
    scales = {"adaface": 0.1, "qaconv": 4}
    return {name: scale * (rng.normal(size=num_pairs) + 2 * issame) for name, scale in scales.items()}, issame


def test_each_measure_is_that_of_its_own_function():
    scores, issame = drawn_scores()
    folds = stratified_folds(issame, 5)
    results = evaluate_pairs(scores, issame, WEIGHTS, folds)
    assert list(results) == ["adaface", "qaconv", "combined"]
    rows = fuse(scores, issame, WEIGHTS, folds)
    for name, result in results.items():
        seen = scores.get(name, rows)
        pooled = scores[name] if name in scores else combine_folds(rows, folds)
        assert (result.accuracy, result.std) == verification(seen, issame, folds)[:2]
        assert (result.auc, result.eer) == (auc(pooled, issame), eer(pooled, issame))
        assert {far: point.tar for far, point in result.rates((0.01, 0.1)).items()} == tar_at_far(
            pooled, issame, (0.01, 0.1)
        )
        np.testing.assert_array_equal(result.scores, pooled)


def test_given_statistics_replace_those_of_the_folds():
    scores, issame = drawn_scores()
    statistics = fit_statistics(*drawn_scores(seed=1), {"adaface": 0.9, "qaconv": 0.1}, "another set")
    combined = evaluate_pairs(scores, issame, statistics=statistics)["combined"]
    np.testing.assert_array_equal(combined.scores, fuse_with(scores, statistics))


def test_without_a_matcher_there_is_one_method_and_no_weight_is_needed():
    scores, issame = drawn_scores()
    assert list(evaluate_pairs({"adaface": scores["adaface"]}, issame)) == ["adaface"]


def test_a_far_beyond_the_impostors_is_said_to_be_so():
    scores, issame = drawn_scores()  # 200 impostors
    result = evaluate_pairs(scores, issame, WEIGHTS)["combined"]
    assert result.rates((0.005, 1e-3))[0.005].tar > 0.2 and result.rates((0.005, 1e-3))[1e-3] is None
    entries = result.to_dict(fars=(0.005, 1e-3))["tar_at_far"]
    assert entries["0.005"]["note"] is None and entries["0.005"]["num_false_accepts"] == 1
    assert entries["0.001"]["tar"] is None and entries["0.001"]["threshold"] is None
    assert entries["0.001"]["note"] == "FAR 0.001 needs at least 1,000 impostor pairs, there are 200"


def test_fars_that_are_nearly_equal_are_told_apart():
    scores, issame = drawn_scores()
    entries = evaluate_pairs(scores, issame, WEIGHTS)["combined"].to_dict(fars=(0.3333333, 0.33333334, 1e-12))
    assert list(entries["tar_at_far"]) == ["0.3333333", "0.33333334", "1e-12"]
    assert "1,000,000,000,000 impostor" in entries["tar_at_far"]["1e-12"]["note"]


def test_intervals_come_only_when_asked_for():
    scores, issame = drawn_scores()
    result = evaluate_pairs(scores, issame, WEIGHTS)["qaconv"]
    without = result.to_dict()
    assert without["auc_interval"] is without["accuracy_interval"] is without["tar_at_far"]["0.01"]["interval"] is None
    interval = result.to_dict(Resampling(num_resamples=50))["auc_interval"]
    assert interval["lower"] < result.auc == interval["estimate"] < interval["upper"]


@pytest.mark.parametrize("method", ["adaface", "combined"])
def test_accuracy_and_every_tar_have_the_interval_of_their_own_measure(method):
    scores, issame = drawn_scores()
    people = np.stack([np.arange(400) // 8, np.arange(400) // 8 + ~issame], axis=1)
    resampling = Resampling(people, 60, seed=3)
    result = evaluate_pairs(scores, issame, WEIGHTS)[method]
    entry = result.to_dict(resampling, (0.1, 0.02, 1e-3))
    nothing = np.zeros(400)
    for interval, measure, seen in (
        (entry["accuracy_interval"], accuracy_measure(10), result.fold_scores),
        (entry["tar_at_far"]["0.1"]["interval"], tar_measure(0.1), result.scores),
        (entry["tar_at_far"]["0.02"]["interval"], tar_measure(0.02), result.scores),
    ):
        of_nothing = measure(nothing, issame)(np.ones((1, 400)))[0]
        expected = paired_draws(seen, nothing, issame, measure, resampling)
        assert interval["estimate"] == pytest.approx(expected.estimate + of_nothing, abs=1e-12)
        assert interval["lower"] < interval["estimate"] < interval["upper"] and 50 < interval["num_resamples"] <= 60
    assert entry["accuracy_interval"]["estimate"] == pytest.approx(entry["accuracy"], abs=1e-12)
    assert entry["tar_at_far"]["0.1"]["interval"]["estimate"] == entry["tar_at_far"]["0.1"]["tar"]
    assert entry["tar_at_far"]["0.001"]["interval"] is None


@pytest.mark.parametrize(("num_impostors", "fars"), [(9, []), (100, ["0.1", "0.01"]), (999, ["0.1", "0.01"])])
def test_without_limits_those_are_told_that_the_pairs_resolve(num_impostors, fars):
    issame = np.arange(num_impostors + 20) < 20
    folds = stratified_folds(issame, 5)
    result = evaluate_pairs({"adaface": np.arange(len(issame))}, issame, folds=folds)["adaface"]
    entries = result.to_dict()["tar_at_far"]
    assert list(entries) == fars and all(entry["note"] is None for entry in entries.values())


def test_the_balanced_accuracy_gives_half_to_what_knows_nothing_and_is_absent_where_a_fold_cannot_have_it():
    scores, issame = drawn_scores()
    knows_nothing = evaluate_pairs({"adaface": np.zeros(400)}, np.arange(400) % 8 == 0)["adaface"]
    assert (knows_nothing.accuracy, knows_nothing.balanced_accuracy) == (0.875, 0.5)
    balanced = evaluate_pairs({"adaface": scores["adaface"]}, issame)["adaface"]
    assert balanced.balanced_accuracy == balanced.accuracy == balanced.to_dict()["balanced_accuracy"]
    in_order = np.arange(400) < 200
    assert evaluate_pairs({"adaface": scores["adaface"]}, in_order)["adaface"].balanced_accuracy is None


@pytest.mark.parametrize("num_genuine", [10, 50, 90])
def test_the_constant_accuracy_is_what_a_matcher_that_knows_nothing_reaches(num_genuine):
    issame = np.random.default_rng(0).permutation(np.arange(100) < num_genuine)
    folds = stratified_folds(issame, 5)
    entry = evaluate_pairs({"adaface": np.zeros(100)}, issame, folds=folds)["adaface"].to_dict()
    assert entry["constant_accuracy"] == max(num_genuine, 100 - num_genuine) / 100
    if num_genuine != 50:
        assert entry["constant_accuracy"] == entry["accuracy"]
    assert (entry["num_genuine"], entry["num_impostor"]) == (num_genuine, 100 - num_genuine)


def test_histogram_counts_every_pair_once_in_common_bins():
    scores, issame = drawn_scores()
    histogram = score_histogram(scores["qaconv"], issame)
    assert sum(histogram["genuine"]) == sum(histogram["impostor"]) == 200
    assert len(histogram["edges"]) == len(histogram["genuine"]) + 1
    assert histogram["edges"] == sorted(histogram["edges"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (lambda s, y: ({"qaconv": s["qaconv"]}, y, WEIGHTS), "matchers must be"),
        (lambda s, y: ({**s, "other": s["qaconv"]}, y, WEIGHTS), "matchers must be"),
        (lambda s, y: (s, y), "got neither"),
        (lambda s, y: (s, y, WEIGHTS, 10, fit_statistics(s, y, WEIGHTS, "x")), "got both"),
        (lambda s, y: (s, np.ones_like(y), WEIGHTS), "both needed"),
        (lambda s, y: ({**s, "adaface": s["adaface"][1:]}, y, WEIGHTS), "evaluate_pairs, adaface: scores must be"),
    ],
)
def test_refusals(arguments, message):
    with pytest.raises(ValueError, match=message):
        evaluate_pairs(*arguments(*drawn_scores()))
