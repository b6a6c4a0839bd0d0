"""Measures of a representation against vectors of naive loops, and at the ends of their ranges."""

import math

import numpy as np
import pytest
from golden_vectors import load_golden

from evaluation import alignment, effective_rank, rankme, std_per_dimension, uniformity

GOLDEN = load_golden("pretraining/measures.npz")
X, Y = GOLDEN["x"], GOLDEN["y"]


@pytest.mark.parametrize(
    ("measured", "name"),
    [
        (alignment(X, Y, 1), "alignment_a1"),
        (alignment(X, Y), "alignment_a2"),
        (uniformity(X, 1), "uniformity_t1"),
        (uniformity(X), "uniformity_t2"),
        (std_per_dimension(X), "std_per_dim"),
        (std_per_dimension(X).mean() * 12**0.5, "std_mean_times_sqrt_d"),
        (rankme(X), "rankme"),
        (rankme(GOLDEN["low"]), "low_rankme"),
        (effective_rank(X), "effective_rank_of_variance"),
    ],
)
def test_a_measure_agrees_with_the_vectors(measured, name):
    np.testing.assert_allclose(measured, GOLDEN[name], rtol=1e-9)


def test_a_collapsed_representation_is_told_from_one_that_fills_the_sphere():
    rng = np.random.default_rng(0)
    spread = rng.normal(size=(400, 32))
    spread /= np.linalg.norm(spread, axis=1, keepdims=True)
    collapsed = np.tile(spread[:1], (400, 1))
    assert uniformity(collapsed) == pytest.approx(0, abs=1e-9) and uniformity(spread) < -3.5
    assert std_per_dimension(spread).mean() * 32**0.5 == pytest.approx(1, abs=0.05)
    assert std_per_dimension(collapsed).max() == pytest.approx(0, abs=1e-9)
    assert rankme(collapsed) == pytest.approx(1, abs=0.01) and rankme(spread) > 30
    assert math.isnan(uniformity(spread[:1])) and math.isnan(std_per_dimension(spread[:1])[0])


def test_odd_input_is_refused():
    with pytest.raises(ValueError, match="one shape, got"):
        alignment(X, Y[:3])
