"""Identification rates against sorting a small matrix by hand."""

import numpy as np
import pytest

from evaluation import rank_accuracy, tpir_at_fpir

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


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: rank_accuracy(SCORES, [0, 1, 9, 0], GALLERY), "probe 2 has none"),
        (lambda: rank_accuracy(SCORES[:3], PROBES, GALLERY), r"\[4, 4\].*got \[3, 4\]"),
        (lambda: rank_accuracy(np.where(SCORES == 0.6, np.nan, SCORES), PROBES, GALLERY), "probe 1, gallery image 2"),
        (lambda: tpir_at_fpir(SCORES, PROBES, GALLERY, [1.0]), r"must lie in \(0, 1\)"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()
