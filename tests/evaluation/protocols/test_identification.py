"""Identification rates against sorting a small matrix by hand."""

from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation import leave_one_out, rank_accuracy, tpir_at_fpir, unordered_pairs

SCORES = np.array(
    [
        [0.9, 0.1, 0.2, 0.3],  # probe of identity 0: first
        [0.5, 0.4, 0.6, 0.1],  # of 1: third
        [0.7, 0.2, 0.7, 0.1],  # of 2: ties with another identity, which counts as behind it
        [0.1, 0.2, 0.3, 0.8],  # of 0, which has a second gallery image: first
    ]
)
PROBES, GALLERY = [0, 1, 2, 0], [0, 1, 2, 0]


def test_rank_accuracy_by_hand():
    assert rank_accuracy(SCORES, PROBES, GALLERY, (1, 2, 3)) == {1: 0.5, 2: 0.75, 3: 1.0}


def test_rank_accuracy_agrees_with_sorting():
    rng = np.random.default_rng(0)
    scores, gallery = rng.normal(size=(30, 12)), np.arange(12) % 6
    probes = rng.integers(0, 6, 30)
    ranked = gallery[np.argsort(-scores, axis=1)]
    for k, share in rank_accuracy(scores, probes, gallery, (1, 2, 5)).items():
        assert share == np.mean([probe in row[:k] for probe, row in zip(probes, ranked, strict=True)])


def test_open_set_agrees_with_trying_every_threshold():
    rng = np.random.default_rng(1)
    gallery, probes = np.arange(10), np.concatenate([np.arange(10).repeat(3), np.full(40, -1)])
    scores = rng.normal(size=(70, 10)) + 2 * (probes[:, None] == gallery)
    known = probes >= 0
    first = scores.argmax(1) == probes
    for limit, tpir in tpir_at_fpir(scores, probes, gallery, (0.03, 0.1, 0.5)).items():
        best = 0.0
        for threshold in scores.max(1):
            accepted = scores.max(1) >= threshold
            if accepted[~known].mean() <= limit:
                best = max(best, (accepted & first)[known].mean())
        assert tpir == best


def test_too_few_strangers_resolve_nothing():
    assert np.isnan(tpir_at_fpir(SCORES, [0, 1, 2, 9], GALLERY, [0.5])[0.5])


@settings(max_examples=60)
@given(st.lists(st.integers(0, 4), min_size=3, max_size=14), st.integers(0, 2**31), st.integers(1, 99))
def test_leave_one_out_agrees_with_searching_one_by_one(labels, seed, cells):
    labels = np.array([*labels, labels[0]])
    num = len(labels)
    scores = np.random.default_rng(seed).integers(0, 5, num * (num - 1) // 2) / 4
    square = np.full((num, num), np.nan)
    for (i, j), score in zip(unordered_pairs(num), scores, strict=True):
        square[i, j] = square[j, i] = score
    hits = {1: [], 3: []}
    for probe in range(num):
        mates = [g for g in range(num) if g != probe and labels[g] == labels[probe]]
        others = [g for g in range(num) if labels[g] != labels[probe]]
        if mates:
            better = sum(square[probe, g] >= square[probe, mates].max() for g in others)
            for rank, found in hits.items():
                found.append(better < rank)
    with mock.patch("evaluation.scores.triangle._SQUARE_CELLS", cells):
        result = leave_one_out(scores, labels, (1, 3))
    assert result.num_probes == len(hits[1]) and result.num_strangers == num - len(hits[1])
    assert result.rank_accuracy == pytest.approx({rank: np.mean(found) for rank, found in hits.items()})


@settings(max_examples=40)
@given(st.lists(st.integers(0, 3), min_size=3, max_size=10), st.integers(0, 2**31), st.integers(1, 99))
def test_where_probes_and_gallery_have_roles_each_probe_has_its_own_scores(labels, seed, cells):
    labels = np.array([*labels, labels[0]])
    num = len(labels)
    square = np.random.default_rng(seed).integers(0, 9, (num, num)) / 8  # [probe, gallery]
    first, second = unordered_pairs(num).T
    ranks = []
    for probe in range(num):
        others = np.delete(np.arange(num), probe)
        is_mate = labels[others] == labels[probe]
        if is_mate.any():
            own = square[probe, others[is_mate]].max()
            ranks.append(1 + np.sum(square[probe, others[~is_mate]] >= own))
    with mock.patch("evaluation.scores.triangle._SQUARE_CELLS", cells):
        result = leave_one_out(square[second, first], labels, (1, 2), with_later=square[first, second])
    assert result.rank_accuracy == pytest.approx({k: np.mean(np.array(ranks) <= k) for k in (1, 2)})


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: leave_one_out([0.1, 0.2, 0.3], [0, 0, 1], with_later=[0.1]), "all 3 pairs of 3 images are needed"),
        (lambda: rank_accuracy(SCORES, [0, 1, 9, 0], GALLERY), "probe 2 has none"),
        (lambda: rank_accuracy(SCORES[:3], PROBES, GALLERY), r"\[4, 4\].*got \[3, 4\]"),
        (lambda: rank_accuracy(np.where(SCORES == 0.6, np.nan, SCORES), PROBES, GALLERY), "probe 1, gallery image 2"),
        (lambda: leave_one_out([0.1, 0.2], [0, 0, 1]), r"all 3 pairs of 3 images are needed, got \[2\]"),
        (lambda: leave_one_out([0.1, 0.2, 0.3], [0, 1, 2]), "no identity has two images"),
        (lambda: tpir_at_fpir(SCORES, PROBES, GALLERY, [1.0]), r"must lie in \(0, 1\)"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()
