"""Figures of groups against counting, and their decisions against the thresholds of the whole set."""

import numpy as np
import pytest

from evaluation import Grouping, Resampling, clopper_pearson, decide, figures_by_group, fuse, verification, visible_bins


def drawn(num_pairs=200, seed=0):
    rng = np.random.default_rng(seed)
    issame = np.arange(num_pairs) % 2 == 0
    first = rng.integers(30, size=num_pairs)
    people = np.stack([first, np.where(issame, first, (first + 1 + rng.integers(28, size=num_pairs)) % 30)], axis=1)
    return (
        rng.normal(size=num_pairs) + 2 * issame,
        issame,
        people,
        np.where(rng.random(num_pairs) < 0.3, "mask", "bare"),
    )


def test_figures_are_those_of_the_group_at_the_thresholds_of_the_whole_set():
    scores, issame, people, groups = drawn()
    result = verification(scores, issame)
    accepted = decide(scores, result.fold_threshold)
    figures = figures_by_group(issame, Grouping.of(groups), accepted, Resampling(people, 200, 1))
    assert list(figures) == ["bare", "mask"]
    for name, found in figures.items():
        chosen = groups == name
        genuine, impostor = chosen & issame, chosen & ~issame
        assert (found.num_genuine, found.num_impostor) == (genuine.sum(), impostor.sum())
        assert found.num_people == len(np.unique(people[chosen]))
        assert found.accuracy.estimate == pytest.approx((accepted == issame)[chosen].mean())
        assert found.tar.estimate == pytest.approx(accepted[genuine].mean())
        assert found.far.estimate == pytest.approx(accepted[impostor].mean())
        assert found.far_exact == clopper_pearson(accepted[impostor].sum(), impostor.sum())
        assert found.accuracy.lower < found.accuracy.estimate < found.accuracy.upper
    sizes = [(groups == name).sum() for name in figures]
    mean = np.average([found.accuracy.estimate for found in figures.values()], weights=sizes)
    assert mean == pytest.approx(result.accuracy)


def test_decisions_of_fused_rows_are_those_that_the_accuracy_counts():
    scores, issame, _, _ = drawn()
    noise = np.random.default_rng(7).normal(size=200)
    rows = fuse({"adaface": scores, "qaconv": scores + noise}, issame, {"adaface": 0.5, "qaconv": 0.5})
    result = verification(rows, issame)
    assert np.mean(decide(rows, result.fold_threshold) == issame) == pytest.approx(result.accuracy)


def test_a_group_of_one_person_or_one_kind_has_figures_without_intervals():
    issame = np.array([True, True, False, False])
    people = np.array([[0, 0], [0, 0], [1, 2], [2, 3]])
    accepted = np.array([True, False, False, False])
    groups = ["one", "one", "others", "others"]
    figures = figures_by_group(issame, Grouping.of(groups), accepted, Resampling(people, 50))
    one = figures["one"]
    assert (one.num_people, one.tar.estimate) == (1, 0.5) and np.isnan(one.tar.lower)
    assert np.isnan(one.far.estimate) and np.isnan(one.far_exact).all()
    assert figures["others"].far_exact == (0.0, clopper_pearson(0, 2)[1])


def test_visible_shares_fall_into_fifths():
    bins = visible_bins([0.0, 0.1999, 0.2, 0.65, 0.8, 1.0])
    assert [bins.names[place] for place in bins.places] == ["0-20 %"] * 2 + ["20-40 %", "60-80 %"] + ["80-100 %"] * 2
    assert list(figures_by_group([True] * 6, bins, [True] * 6)) == ["0-20 %", "20-40 %", "60-80 %", "80-100 %"]


def test_refusals():
    issame = np.array([True, False])
    with pytest.raises(ValueError, match=r"groups must be \[2\], got \[1\]"):
        figures_by_group(issame, Grouping.of(["a"]), issame)
    with pytest.raises(ValueError, match=r"accepted must be \[2\], got \[3\]"):
        figures_by_group(issame, Grouping.of(["a", "b"]), [True] * 3)
