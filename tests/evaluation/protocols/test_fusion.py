"""Score fusion against formulas written out, its fallback, and that no fold shapes its own row."""

import dataclasses
import logging

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation import FusionStatistics, combine_folds, fit_statistics, fold_of_pairs, fuse, fuse_with

WEIGHTS = {"adaface": 0.3, "qaconv": 0.7}


def drawn_scores(num_pairs=60, seed=0):
    rng = np.random.default_rng(seed)
    issame = np.arange(num_pairs) % 2 == 0
    adaface = 0.2 * rng.normal(size=num_pairs) + 0.3 * issame
    qaconv = 5 * rng.normal(size=num_pairs) + 9 * issame - 20
    return {"adaface": adaface, "qaconv": qaconv}, issame


def naive_row(scores, issame, weights, training):
    row = np.zeros(len(issame))
    for name, values in scores.items():
        impostors = [values[i] for i in range(len(issame)) if training[i] and not issame[i]]
        mean = sum(impostors) / len(impostors)
        std = (sum((value - mean) ** 2 for value in impostors) / len(impostors)) ** 0.5
        row += weights[name] * (values - mean) / std
    return row


@pytest.mark.parametrize("folds", [5, np.arange(60) % 7])
def test_rows_use_the_impostors_of_the_other_folds(folds):
    scores, issame = drawn_scores()
    fold_of_pair = fold_of_pairs(folds, 60)
    rows = fuse(scores, issame, WEIGHTS, folds)
    assert rows.shape == (fold_of_pair.max() + 1, 60)
    for fold, row in enumerate(rows):
        np.testing.assert_allclose(row, naive_row(scores, issame, WEIGHTS, fold_of_pair != fold), atol=1e-10)


@settings(max_examples=30)
@given(seed=st.integers(0, 10_000), fold=st.integers(0, 4))
def test_a_fold_shapes_no_row_of_its_own(seed, fold):
    scores, issame = drawn_scores(seed=seed)
    test = fold_of_pairs(5, 60) == fold
    before = fuse(scores, issame, WEIGHTS, 5)
    changed = {name: np.where(test, 100 - 3 * values, values) for name, values in scores.items()}
    after = fuse(changed, np.where(test, ~issame, issame), WEIGHTS, 5)
    np.testing.assert_array_equal(after[fold, ~test], before[fold, ~test])
    others = np.delete(np.arange(5), fold)
    assert (after[others][:, ~test] != before[others][:, ~test]).any()


def test_the_fallback_weighs_that_fold_alone_and_is_logged(caplog):
    scores, issame = drawn_scores()
    test = fold_of_pairs(2, 60) == 1
    # QAConv is upside down in fold 1, which is what fold 0 learns from.
    scores["qaconv"] = np.where(test, -scores["qaconv"], scores["qaconv"])
    with caplog.at_level(logging.WARNING, logger="evaluation.protocols.fusion"):
        rows = fuse(scores, issame, WEIGHTS, 2)
    np.testing.assert_allclose(rows[0], naive_row(scores, issame, {"adaface": 0.8, "qaconv": 0.2}, test), atol=1e-10)
    np.testing.assert_allclose(rows[1], naive_row(scores, issame, WEIGHTS, ~test), atol=1e-10)
    assert [record.name for record in caplog.records] == ["evaluation.protocols.fusion"]
    assert "fold 0" in caplog.text and "fold 1" not in caplog.text


def test_an_auc_of_exactly_one_half_keeps_the_weights(caplog):
    scores, issame = drawn_scores()
    scores["qaconv"] = np.repeat(np.arange(30.0), 2)  # genuine and impostor alike
    assert fit_statistics(scores, issame, WEIGHTS, "test").weights == WEIGHTS
    assert not caplog.records


@pytest.mark.parametrize("value", [0.1, 1e6 / 3])
def test_a_matcher_with_constant_impostors_is_left_out_and_logged(caplog, value):
    scores, issame = drawn_scores()
    scores["qaconv"] = np.full(60, value)
    rows = fuse(scores, issame, WEIGHTS, 2)
    np.testing.assert_array_equal(rows, fuse({"adaface": scores["adaface"]}, issame, {"adaface": 0.3}, 2))
    assert "qaconv gives all impostors one score" in caplog.text


@settings(max_examples=30)
@given(scale=st.floats(0.01, 100), shift=st.floats(-100, 100))
def test_units_of_a_matcher_do_not_matter(scale, shift):
    scores, issame = drawn_scores()
    rows = fuse(scores, issame, WEIGHTS, 5)
    scores["qaconv"] = scale * scores["qaconv"] + shift
    np.testing.assert_allclose(fuse(scores, issame, WEIGHTS, 5), rows, atol=1e-6)


def test_statistics_of_all_pairs_fuse_other_pairs_and_survive_a_dictionary():
    scores, issame = drawn_scores()
    statistics = fit_statistics(scores, issame, WEIGHTS, "lfw, clean")
    assert (statistics.source, statistics.num_impostors) == ("lfw, clean", 30)
    everything = np.ones(60, dtype=bool)
    np.testing.assert_allclose(
        fuse_with(scores, statistics), naive_row(scores, issame, WEIGHTS, everything), atol=1e-10
    )
    rebuilt = FusionStatistics.from_dict(statistics.to_dict())
    assert rebuilt == statistics
    other = {name: values[:7] for name, values in scores.items()}
    np.testing.assert_array_equal(fuse_with(other, rebuilt), fuse_with(scores, statistics)[:7])
    heavier = dataclasses.replace(statistics, weights={"adaface": 0.6, "qaconv": 1.4})
    np.testing.assert_allclose(fuse_with(scores, heavier), 2 * fuse_with(scores, statistics), atol=1e-10)


def test_statistics_hold_primitives_only():
    scores, issame = drawn_scores()
    values = fit_statistics(scores, issame, {name: np.float32(0.5) for name in scores}, "here").to_dict()
    leaves = [leaf for value in values.values() for leaf in (value.values() if isinstance(value, dict) else [value])]
    assert {type(leaf) for leaf in leaves} <= {float, int, str}


def test_combine_folds_takes_each_pair_from_its_own_row():
    rows = np.arange(12.0).reshape(3, 4)
    assert combine_folds(rows, np.array([0, 2, 1, 0])).tolist() == [0, 9, 6, 3]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s, y, w: (s, y, {"adaface": 1.0}), "weights must name the matchers"),
        (lambda s, y, w: (s, y, {**w, "qaconv": np.nan}), "weights must be finite"),
        (lambda s, y, w: ({**s, "qaconv": s["qaconv"][:-1]}, y, w), r"fuse, qaconv: scores must be \[60\]"),
        (
            lambda s, y, w: ({**s, "qaconv": np.where(np.arange(60) == 5, np.inf, 0.0)}, y, w),
            r"finite, got inf at \[5\]",
        ),
        (lambda s, y, w: ({**s, "adaface": np.where(np.arange(60) == 5, np.nan, 0.0)}, y, w), r"NaN at \[5\]"),
        (lambda s, y, w: (s, np.arange(60) < 30, w), "all folds but 0: genuine and impostor pairs are both needed"),
    ],
)
def test_refusals(change, message):
    scores, issame = drawn_scores()
    scores, issame, weights = change(scores, issame, WEIGHTS)
    with pytest.raises(ValueError, match=message):
        fuse(scores, issame, weights, 2)


def test_statistics_of_another_shape_are_refused():
    scores, issame = drawn_scores()
    values = fit_statistics(scores, issame, WEIGHTS, "here").to_dict()
    with pytest.raises(ValueError, match="fields must be"):
        FusionStatistics.from_dict({key: value for key, value in values.items() if key != "source"})
    with pytest.raises(ValueError, match="name the same matchers"):
        FusionStatistics.from_dict({**values, "std": {"adaface": 1.0}})
    with pytest.raises(ValueError, match="weights must name the matchers"):
        fuse_with({"adaface": scores["adaface"]}, FusionStatistics.from_dict(values))
