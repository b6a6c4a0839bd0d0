"""Bits over the prior, Cllr and their fits against the golden files and references that share no code."""

import math

import numpy as np
import pytest
from golden_vectors import load_golden
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from evaluation import bits_over_prior, cllr, fit_llr, fit_temperature, min_cllr, smoothed_prior
from evaluation.representation import bits
from evaluation.representation.likelihood import cross_fitted_cllr

BITS = load_golden("finetuning/bits_per_sample.npz")
CLLR = load_golden("finetuning/cllr.npz")


def of_set(number):
    counts = BITS[f"set{number}_train_counts"]
    return BITS[f"set{number}_logits"], BITS[f"set{number}_labels"], counts / counts.sum()


@pytest.mark.parametrize("number", range(4))
def test_bits_are_those_of_the_golden_file_and_never_clamped(number, monkeypatch):
    monkeypatch.setattr(bits, "_VALUES_AT_ONCE", 100)
    found = bits_over_prior(*of_set(number))
    assert found == pytest.approx(float(BITS[f"set{number}_bits"]), rel=1e-9)
    assert found > 1 if number == 0 else found < -8


def test_people_unknown_to_training_count_in_nothing_and_a_smoothed_prior_has_no_zero():
    logits, labels, prior = of_set(0)
    unknown = BITS["unknown_labels"]
    assert (unknown != -1).sum() == BITS["unknown_counted"]
    assert bits_over_prior(logits, unknown, prior) == pytest.approx(float(BITS["unknown_bits"]), rel=1e-9)
    assert math.isnan(bits_over_prior(logits, np.full(40, -1), prior))
    smoothed = smoothed_prior(BITS["smoothed_counts"])
    np.testing.assert_allclose(smoothed, BITS["smoothed_prior"], rtol=1e-12)
    assert bits_over_prior(logits, labels, smoothed) == pytest.approx(float(BITS["smoothed_bits"]), rel=1e-9)


@pytest.mark.parametrize("number", range(4))
def test_the_fitted_temperature_has_the_least_cross_entropy(number):
    logits, labels, prior = of_set(number)

    def cost(log_temperature):
        values = log_softmax(logits.astype(float) / math.exp(log_temperature), axis=1)
        return -values[np.arange(len(labels)), labels].mean()

    found = fit_temperature(logits, labels)
    best = minimize_scalar(cost, bounds=(-7, 7), method="bounded", options={"xatol": 1e-9})
    assert cost(math.log(found)) <= best.fun + 1e-12
    assert bits_over_prior(logits / found, labels, prior) >= bits_over_prior(logits, labels, prior)
    for factor in (0.05, 20):
        assert fit_temperature(factor * logits, labels) == pytest.approx(min(factor * found, 1e3), rel=1e-5)
    moved = logits.astype(float) + 2000  # exp alone would not do
    assert bits_over_prior(moved, labels, prior) == pytest.approx(bits_over_prior(logits, labels, prior))
    assert fit_temperature(moved, labels) == pytest.approx(found, rel=1e-6)


def test_answers_that_no_temperature_fits_best_give_the_ends_of_the_range():
    logits = np.eye(3) * 2
    assert fit_temperature(logits, [0, 1, 2]) == 1e-3
    assert fit_temperature(-logits, [0, 1, 2]) == 1e3
    with pytest.raises(ValueError, match="no image is of a known person"):
        fit_temperature(logits, [-1, -1, -1])


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"labels": np.zeros(3, int)}, ValueError, r"logits \[N, C\] and labels \[N\] are needed"),
        ({"labels": np.zeros(9)}, TypeError, "labels must be integers"),
        ({"labels": np.full(9, 5)}, ValueError, r"must lie in \[0, 5\), or be -1"),
        ({"labels": np.full(9, -2)}, ValueError, "got -2 to -2"),
        ({"prior": np.full(5, 0.3)}, ValueError, r"sum to 1, got \[5\] with a sum of 1.5"),
        ({"prior": np.full(4, 0.25)}, ValueError, r"must be \[5\]"),
        ({"prior": np.array([0.5, 0.5, 0, 0, 0])}, ValueError, "a prior of 0.*use smoothed_prior"),
        ({"logits": np.full((9, 5), np.nan)}, ValueError, "logits must be finite"),
    ],
)
def test_odd_logits_labels_and_priors_are_refused(change, error, message):
    logits, labels, prior = of_set(2)
    arguments = {"logits": logits, "labels": labels, "prior": prior} | change
    with pytest.raises(error, match=f"bits_over_prior: .*{message}"):
        bits_over_prior(**arguments)


# ---------------------------------------------------------------- Cllr


def pairs(name):
    genuine, impostor = CLLR[f"{name}_genuine"], CLLR[f"{name}_impostor"]
    return np.append(genuine, impostor), np.append(np.ones(len(genuine), bool), np.zeros(len(impostor), bool))


@pytest.mark.parametrize("name", ["good", "weak", "none"])
def test_cllr_and_its_least_value_are_those_of_the_golden_file(name):
    scores, issame = pairs(name)
    a, b = float(CLLR[f"{name}_a"]), float(CLLR[f"{name}_b"])
    assert cllr(a * scores + b, issame) == pytest.approx(float(CLLR[f"{name}_cllr"]), rel=1e-12)
    assert min_cllr(scores, issame) == pytest.approx(float(CLLR[f"{name}_min_cllr"]), rel=1e-9)
    fitted = fit_llr(scores, issame)
    assert min_cllr(scores, issame) < cllr(fitted(scores), issame) <= cllr(a * scores + b, issame) + 1e-12
    for other in (fitted._replace(scale=fitted.scale * 1.01), fitted._replace(offset=fitted.offset + 0.01)):
        assert cllr(other(scores), issame) > cllr(fitted(scores), issame)


def test_large_ratios_are_exact_and_infinite_ones_cost_nothing_or_everything():
    issame = np.array([True, False])
    assert cllr([1e3, -1e3], issame) == 0
    assert cllr([-1e3, 1e3], issame) == pytest.approx(1e3 / math.log(2), rel=1e-12)
    assert cllr([0, 0], issame) == pytest.approx(1, rel=1e-15)
    assert cllr([np.inf, -np.inf], issame) == 0 and cllr([-np.inf, -1], issame) == np.inf


def test_the_least_cllr_knows_only_the_order():
    scores, issame = pairs("weak")
    assert min_cllr(np.exp(3 * scores), issame) == pytest.approx(min_cllr(scores, issame), rel=1e-12)
    assert min_cllr([1, 2, 3, 4], np.array([False, False, True, True])) == 0
    assert min_cllr([4, 3, 2, 1], np.array([False, False, True, True])) == pytest.approx(1)
    assert min_cllr([1, 1, 1], np.array([False, True, True])) == pytest.approx(1)


@pytest.mark.parametrize(
    ("scores", "issame", "error", "message"),
    [
        ([1, np.nan], [True, False], ValueError, "NaN at"),
        ([1, 2], [True, True], ValueError, "genuine and impostor pairs are both needed"),
        ([1, 2], [1, 0], TypeError, "issame must be bool"),
        ([1, 2, 3], [True, False], ValueError, "to match issame"),
    ],
)
def test_odd_pairs_are_refused(scores, issame, error, message):
    for function in (cllr, min_cllr, fit_llr):
        with pytest.raises(error, match=f"{function.__name__}: .*{message}"):
            function(scores, issame)


@pytest.mark.parametrize(
    ("scores", "message"),
    [([1, 1, 1], "all scores are equal"), ([1, 2, 3], "tell all pairs apart"), ([1, np.inf, 0], "must be finite")],
)
def test_scores_without_a_best_affine_function_are_refused(scores, message):
    with pytest.raises(ValueError, match=message):
        fit_llr(scores, [False, True, True])


@pytest.mark.parametrize("rows", [1, 3])
def test_each_fold_is_calibrated_by_the_others(rows):
    rng = np.random.default_rng(3)
    issame = rng.random(90) < 0.4
    folds = np.arange(90) % 3
    fold_scores = rng.normal(issame, 0.8, (rows, 90)) * (1 + np.arange(rows))[:, None]
    ratios = np.empty(90)
    for fold in range(3):
        row, own = fold_scores[fold % rows], folds == fold
        ratios[own] = fit_llr(row[~own], issame[~own])(row[own])
    given = fold_scores[0] if rows == 1 else fold_scores
    assert cross_fitted_cllr(given, issame, folds) == pytest.approx(cllr(ratios, issame), rel=1e-9)
    # No finite scale is best where all pairs are told apart.
    assert cross_fitted_cllr(issame.astype(float), issame, folds) is None
