"""Normalization by visible shares against formulas written out, and its purpose: one threshold for every condition."""

import dataclasses
import logging

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation import (
    FaceDescriptions,
    LocalView,
    ScoreNormalization,
    Shares,
    fit_normalization,
    score_all_pairs,
    score_shortlisted_pairs,
    shares_of,
)
from evaluation.scores import comparable
from evaluation.scores.comparable import Sides, comparable_scores, comparable_search

WEIGHTS = {"adaface": 0.3, "qaconv": 0.7}


def draw_pairs(num_pairs=30_000, seed=0):
    """Return scores whose impostors' mean and spread move with what is hidden, their shares and issame."""
    rng = np.random.default_rng(seed)
    kind = np.arange(num_pairs) % 3  # clean, one, both
    hidden = rng.uniform(0.1, 0.6, (num_pairs, 2)) * np.stack([kind == 2, kind >= 1], axis=1)
    first, second = (1 - hidden).T
    both = first * second
    issame = rng.random(num_pairs) < 0.1
    noise = rng.normal(size=(num_pairs, 2)) @ np.array([[1.0, 0.4], [0.0, 0.9]])
    spread = np.exp(-0.8 * (1 - both))
    adaface = 0.02 + 0.1 * (1 - both) + 0.1 * spread * noise[:, 0] + 0.4 * issame * both
    qaconv = -3 + 2 * (1 - first) * (1 - second) + np.exp(0.5 * (1 - both)) * noise[:, 1] + 3 * issame
    return {"adaface": adaface, "qaconv": qaconv}, Shares(first, second, both), issame, kind


def fitted(num_pairs=30_000):
    scores, shares, issame, _ = draw_pairs(num_pairs)
    normalization = fit_normalization(scores, shares, issame, WEIGHTS, "a test")
    assert normalization is not None
    return normalization


def test_other_impostors_have_mean_0_and_spread_1_whatever_is_hidden():
    scores, shares, issame, kind = draw_pairs(seed=1)
    found = fitted().apply(scores, shares)
    assert set(found) == {"adaface", "qaconv", "combined"}
    for condition in range(3):
        chosen = ~issame & (kind == condition)
        for name, values in found.items():
            assert abs(values[chosen].mean()) < 0.06, (name, condition)
            assert abs(values[chosen].std() - 1) < 0.06, (name, condition)


def test_one_threshold_holds_for_every_condition():
    scores, shares, issame, kind = draw_pairs(200_000, seed=1)

    def false_accepts(values):
        clean = np.quantile(values[~issame & (kind == 0)], 0.99)
        return [float((values[~issame & (kind == condition)] > clean).mean()) for condition in (1, 2)]

    assert min(false_accepts(scores["adaface"])) < 0.006 or max(false_accepts(scores["adaface"])) > 0.015
    for values in fitted().apply(scores, shares).values():
        assert all(0.0075 < far < 0.0125 for far in false_accepts(values))


def test_apply_is_the_formula_of_its_numbers():
    normalization = fitted()
    shares = Shares(np.array([0.9]), np.array([0.6]), np.array([0.55]))
    a, b, c = 0.1, 0.4, 0.45
    raw = np.array([1, a + b, a * b, a**2 + b**2, c, c**2])
    terms = [
        (term - center) / scale
        for term, center, scale in zip(raw, normalization.center, normalization.scale, strict=True)
    ]

    def linear(coefficients):
        return sum(one * term for one, term in zip(coefficients, terms, strict=True))

    z = {
        name: (score - linear(normalization.mean[name])) / np.exp(linear(normalization.log_std[name]))
        for name, score in (("adaface", 0.3), ("qaconv", -2.0))
    }
    correlation = linear(normalization.correlation)
    combined = (0.3 * z["adaface"] + 0.7 * z["qaconv"]) / np.sqrt(0.09 + 0.49 + 0.42 * correlation)
    found = normalization.apply({"adaface": [0.3], "qaconv": [-2.0]}, shares)
    assert found["adaface"][0] == pytest.approx(z["adaface"])
    assert found["qaconv"][0] == pytest.approx(z["qaconv"])
    assert found["combined"][0] == pytest.approx(combined)


def test_shares_below_those_fitted_on_count_as_the_least():
    normalization = fitted()
    scores = {"adaface": [0.1], "qaconv": [0.2]}
    visible, co_visible = normalization.least
    least = Shares(*(np.array([value]) for value in (visible, visible, co_visible)))
    nothing = Shares(*(np.zeros(1) for _ in range(3)))
    assert normalization.apply(scores, nothing)["combined"] == normalization.apply(scores, least)["combined"]


def test_it_survives_primitives_and_refuses_others():
    normalization = fitted(3000)
    assert ScoreNormalization.from_dict(normalization.to_dict()) == normalization
    with pytest.raises(ValueError, match="fields must be"):
        ScoreNormalization.from_dict({"mean": {}})
    with pytest.raises(ValueError, match="scores of"):
        normalization.apply({"other": [0.1]}, Shares(*(np.ones(1),) * 3))


def test_one_of_two_matchers_is_normalized_as_beside_the_other():
    scores, shares, _, _ = draw_pairs(300)
    both, alone = (fitted(3000).apply(part, shares) for part in (scores, {"qaconv": scores["qaconv"]}))
    assert set(alone) == {"qaconv"} and (alone["qaconv"] == both["qaconv"]).all()


def test_few_impostors_teach_nothing():
    scores, shares, issame, _ = draw_pairs(60)
    assert fit_normalization(scores, shares, issame, WEIGHTS, "a test") is None


def test_an_embedding_alone_is_normalized_alone():
    scores, shares, issame, _ = draw_pairs(3000)
    alone = fit_normalization({"adaface": scores["adaface"]}, shares, issame, WEIGHTS, "a test")
    assert alone is not None and alone.correlation == []
    assert set(alone.apply({"adaface": scores["adaface"]}, shares)) == {"adaface"}


def test_a_matcher_that_ranks_less_than_half_right_weighs_little(caplog):
    scores, shares, issame, _ = draw_pairs(3000)
    with caplog.at_level(logging.WARNING):
        found = fit_normalization(scores | {"qaconv": -scores["qaconv"]}, shares, issame, WEIGHTS, "a test")
    assert found is not None and found.weights == {"adaface": 0.8, "qaconv": 0.2}
    assert "AUC below 0.5 on a test" in caplog.text


def test_weights_of_nothing_give_nothing():
    scores, shares, _, _ = draw_pairs(30)
    silent = dataclasses.replace(fitted(3000), weights={"adaface": 0.0, "qaconv": 0.0})
    assert not silent.apply(scores, shares)["combined"].any()


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.0, 1e-3, 1.0, 1e3]), st.booleans())
def test_any_scores_give_finite_numbers(seed, spread, all_visible):
    rng = np.random.default_rng(seed)
    issame = np.arange(300) % 5 == 0
    shares = Shares(*(np.ones(300) if all_visible else rng.random(300) for _ in range(3)))
    scores = {"adaface": spread * rng.normal(size=300), "qaconv": np.full(300, -7.0)}
    normalization = fit_normalization(scores, shares, issame, WEIGHTS, "a test")
    assert normalization is not None
    assert all(np.isfinite(values).all() for values in normalization.apply(scores, shares).values())


def describe_faces(num_images=9, seed=0, has_visibility=True):
    generator = torch.Generator().manual_seed(seed)
    maps = torch.nn.functional.normalize(torch.randn(num_images, 4, 2, 2, generator=generator), dim=1)
    visibility = torch.rand(num_images, 1, 2, 2, generator=generator) if has_visibility else None
    embedding = torch.nn.functional.normalize(torch.randn(num_images, 5, generator=generator), dim=1)
    return FaceDescriptions(embedding, (LocalView(maps, visibility),))


def match(a, b, a_visibility, b_visibility):
    return torch.einsum("pcs,gcs->pg", a.flatten(2), b.flatten(2))


def test_pairs_that_the_matcher_did_not_see_keep_its_lowest_score():
    faces, normalization = describe_faces(), fitted(3000)
    scores, matched = score_shortlisted_pairs(faces, match, 2)
    found = comparable_scores(scores, Sides(faces, faces, None), normalization, matched)
    assert not matched.all()
    assert set(found["qaconv"][~matched]) == {found["qaconv"][matched].min()}
    seen = comparable_scores(score_all_pairs(faces, match), Sides(faces, faces, None), normalization)
    for name in seen:
        np.testing.assert_allclose(found[name][matched], seen[name][matched], rtol=1e-5)
    floor = found["qaconv"][~matched].astype(float)
    ((_, shares),) = shares_of(faces, faces)
    expected = normalization.combine(
        {"adaface": found["adaface"][~matched].astype(float), "qaconv": floor},
        Shares(*(column[~matched] for column in shares)),
    )
    np.testing.assert_allclose(found["combined"][~matched], expected, rtol=1e-5)


def test_scores_without_visibility_stay_as_they_come():
    faces = describe_faces(has_visibility=False)
    scores = score_all_pairs(faces, match)
    found = comparable_scores(scores, Sides(faces, faces, None), fitted(3000))
    assert all((found[name] == scores[name]).all() for name in scores) and set(found) == set(scores)


@pytest.mark.parametrize("num_cells", [1, 7, 2**18])
def test_a_search_is_normalized_as_its_pairs_are(monkeypatch, num_cells):
    monkeypatch.setattr(comparable, "_CELLS", num_cells)
    generator = torch.Generator().manual_seed(0)
    seen = [torch.rand(5, 1, 2, 3, generator=generator) for _ in range(4)]
    sides = [
        FaceDescriptions(torch.zeros(5, 1), tuple(LocalView(torch.zeros(5, 1, 2, 3), view) for view in views))
        for views in (seen[:2], seen[2:])
    ]
    scores = np.random.default_rng(0).normal(size=(5, 5)).astype(np.float32)
    normalization = fitted()
    places = np.stack(np.meshgrid(np.arange(5), np.arange(5), indexing="ij"), axis=-1).reshape(-1, 2)
    alone = normalization.alone("adaface")
    expected = comparable_scores({"adaface": scores.ravel()}, Sides(*sides, places), alone)
    assert list(expected) == ["adaface"]
    cells = [torch.cat([view.visibility.flatten(1) for view in side.views], dim=1).numpy() for side in sides]
    found = comparable_search(scores[:3], cells[0][:3], cells[1], normalization)
    assert found.dtype == np.float32 and np.abs(found - scores[:3]).max() > 0.1
    np.testing.assert_allclose(found, expected["adaface"].reshape(5, 5)[:3], rtol=1e-4, atol=1e-5)
