"""Clustering quality against vectors of naive loops, and against counting every pair."""

from itertools import combinations

import numpy as np
import pytest
from golden_vectors import load_golden
from hypothesis import given
from hypothesis import strategies as st

from evaluation import clustering_quality

NAMES = {"P": "precision", "R": "recall", "F": "f", "bP": "bcubed_precision", "bR": "bcubed_recall", "bF": "bcubed_f"}
GOLDEN = load_golden("pretraining/clustering_metrics.npz")


@pytest.mark.parametrize("noise", ["single", "drop"])
@pytest.mark.parametrize("case", sorted({key.partition(".")[0] for key in GOLDEN}))
def test_quality_agrees_with_the_vectors(case, noise):
    quality = clustering_quality(GOLDEN[f"{case}.truth"], GOLDEN[f"{case}.predicted"], noise)._asdict()
    for key, name in {**NAMES, "nmi": "nmi"}.items():
        assert quality[name] == pytest.approx(float(GOLDEN[f"{case}.{noise}.{key}"]), rel=1e-9, abs=1e-12, nan_ok=True)


@given(st.lists(st.tuples(st.integers(-1, 3), st.integers(-1, 3)), max_size=12), st.sampled_from(["single", "drop"]))
def test_pairs_and_coverage_are_what_counting_gives(images, noise):
    truth, predicted = np.array(images, np.int64).reshape(-1, 2).T
    quality = clustering_quality(truth, predicted, noise)
    known = [
        (t, p if p >= 0 else -1 - i) for i, (t, p) in enumerate(images) if t >= 0 and (p >= 0 or noise == "single")
    ]
    pairs = [(a[0] == b[0], a[1] == b[1]) for a, b in combinations(known, 2)]
    hits = sum(same and joined for same, joined in pairs)
    for figure, whole in ((quality.precision, sum(j for _, j in pairs)), (quality.recall, sum(s for s, _ in pairs))):
        assert figure == pytest.approx(hits / whole if whole else np.nan, nan_ok=True)
    labeled = [p for t, p in images if t >= 0]
    share = sum(p >= 0 for p in labeled) / len(labeled) if labeled else np.nan
    assert quality.coverage == pytest.approx(share, nan_ok=True)


def test_odd_labels_are_refused():
    with pytest.raises(ValueError, match="one of single, drop"):
        clustering_quality([0], [0], "ignore")
    with pytest.raises(ValueError, match="one length, got 2 and 1"):
        clustering_quality([0, 1], [0])
    with pytest.raises(TypeError, match="must be integers, got float64"):
        clustering_quality([0.5], [0])
