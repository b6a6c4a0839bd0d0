"""The protocol puts the measures together: which methods, from which scores, and what cannot be resolved."""

import numpy as np
import pytest

from evaluation import (
    Resampling,
    auc,
    combine_folds,
    evaluate_pairs,
    fit_statistics,
    fuse,
    fuse_with,
    stratified_folds,
    tar_at_far,
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
    results = evaluate_pairs(scores, issame, WEIGHTS, folds, fars=(0.01, 0.1))
    assert list(results) == ["adaface", "qaconv", "combined"]
    rows = fuse(scores, issame, WEIGHTS, folds)
    for name, result in results.items():
        seen = scores.get(name, rows)
        pooled = scores[name] if name in scores else combine_folds(rows, folds)
        assert (result.accuracy, result.std) == verification(seen, issame, folds)[:2]
        assert result.auc == auc(pooled, issame)
        assert result.tar_at_far == tar_at_far(pooled, issame, (0.01, 0.1))
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
    result = evaluate_pairs(scores, issame, WEIGHTS, fars=(0.005, 1e-3))["combined"]
    assert result.tar_at_far[0.005] > 0.2 and np.isnan(result.tar_at_far[1e-3])
    entries = result.to_dict()["tar_at_far"]
    assert entries["0.005"]["note"] is None and entries["0.005"]["num_false_accepts"] == 1
    assert entries["0.001"]["tar"] is None and entries["0.001"]["threshold"] is None
    assert entries["0.001"]["note"] == "FAR 0.001 needs at least 1,000 impostor pairs, there are 200"


def test_intervals_come_only_when_asked_for():
    scores, issame = drawn_scores()
    assert evaluate_pairs(scores, issame, WEIGHTS)["qaconv"].auc_interval is None
    result = evaluate_pairs(scores, issame, WEIGHTS, resampling=Resampling(num_resamples=50))["qaconv"]
    assert result.auc_interval.lower < result.auc == result.auc_interval.estimate < result.auc_interval.upper


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
        (lambda s, y: (s, y, WEIGHTS, 10, (0.1,), fit_statistics(s, y, WEIGHTS, "x")), "got both"),
        (lambda s, y: (s, np.ones_like(y), WEIGHTS), "both needed"),
        (lambda s, y: ({**s, "adaface": s["adaface"][1:]}, y, WEIGHTS), "evaluate_pairs, adaface: scores must be"),
    ],
)
def test_refusals(arguments, message):
    with pytest.raises(ValueError, match=message):
        evaluate_pairs(*arguments(*drawn_scores()))
