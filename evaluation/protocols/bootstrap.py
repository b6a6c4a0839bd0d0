"""Bootstrap intervals of verification measures, paired between two methods, over identities or over pairs.

A resample is a weight per pair. Resampling identities draws as many identities as there are, with replacement; an
impostor pair weighs the product of its two identities' multiplicities, a genuine pair the multiplicity of its one
identity. So the many pairs that share a face move together, which resampling pairs would miss.
Reference: Efron, Tibshirani, "An Introduction to the Bootstrap", 1993, Ch. 13 (percentile interval); Bolle, Ratha,
Pankanti, "Error analysis of pattern recognition systems: the subsets bootstrap", CVIU 93(1), 2004 (dependent scores).
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from evaluation.protocols.checks import BoolArray, FloatArray, Folds, check_issame
from evaluation.protocols.weighted import (
    WeightedMeasure,
    weighted_accuracy,
    weighted_auc,
    weighted_rates,
    weighted_tar_at_far,
)

Measure: TypeAlias = Callable[[ArrayLike, BoolArray], WeightedMeasure]
_CELLS_AT_ONCE = 2_000_000  # resamples are drawn in blocks of about this many weights: 16 MB


class Resampling(NamedTuple):
    """How to resample: identities int [N, 2] of each pair's two images (None: resample pairs), how often, seed."""

    identities: ArrayLike | None = None
    num_resamples: int = 1000
    seed: int = 0

    def describe(self) -> str:
        """Return the method in words, for a report."""
        unit = "pairs" if self.identities is None else "identities"
        return f"95 % percentile bootstrap over {unit}, {self.num_resamples} resamples, seed {self.seed}"


OVER_PAIRS = Resampling()


class Draws(NamedTuple):
    """A measure's value on the data and on each resample [R]; NaN on a resample where it does not exist."""

    estimate: float
    values: FloatArray


class Interval(NamedTuple):
    """Estimate with the 2.5 % and 97.5 % percentiles; num_resamples counts those on which the measure existed."""

    estimate: float
    lower: float
    upper: float
    num_resamples: int


class Rates(NamedTuple):
    """Of decisions on pairs: shares of right ones, of genuine pairs accepted, of impostor pairs accepted."""

    accuracy: Interval
    tar: Interval
    far: Interval


class Comparison(NamedTuple):
    """A measure of two methods on the same pairs, and the interval of their difference, first minus second.

    p_value: two-sided; how often as much as the difference or its other sign would be drawn if there were none.
    """

    first: float
    second: float
    difference: Interval
    p_value: float


def accuracy_measure(folds: Folds = 10) -> Measure:
    """Return the accuracy of `verification`, for scores [N] or [F, N]; thresholds are chosen anew in each resample.

    Keeping the thresholds would ignore the error of choosing them: on drawn scores of 600 and 3,000 pairs the 95 %
    interval of a difference then covered the truth in 87 % and 90 % of 120 trials, this one in 99 %.
    """
    return lambda scores, issame: weighted_accuracy(scores, issame, folds)


def tar_measure(far: float) -> Measure:
    """Return `tar_at_far` for one limit; the threshold is chosen anew in each resample."""
    return lambda scores, issame: weighted_tar_at_far(scores, issame, far)


def auc_measure() -> Measure:
    """Return `auc`."""
    return weighted_auc


def paired_bootstrap(
    first: ArrayLike,
    second: ArrayLike,
    issame: ArrayLike,
    measure: Measure | None = None,
    resampling: Resampling = OVER_PAIRS,
) -> Interval:
    """Return the interval of measure(first) - measure(second) on the same pairs, resampled together.

    Args:
        first, second: scores of two methods, [N] (for accuracy also [F, N]).
        issame: bool [N].
        measure: `accuracy_measure(...)`, `tar_measure(far)` or `auc_measure()`; None: accuracy over 10 folds.
        resampling: over what, how often, seed.
    Returns:
        Estimate (that of the unresampled data) and percentiles; all NaN where the measure cannot be computed.
    Raises:
        ValueError: on disagreeing shapes, identities that contradict issame, or fewer than two identities.
    """
    return summarize(paired_draws(first, second, issame, measure, resampling))


def paired_draws(
    first: ArrayLike,
    second: ArrayLike,
    issame: ArrayLike,
    measure: Measure | None = None,
    resampling: Resampling = OVER_PAIRS,
) -> Draws:
    """Return the draws behind `paired_bootstrap`, to be averaged over benchmarks with `average`."""
    labels = check_issame("paired_bootstrap", issame)
    measure = measure or accuracy_measure()
    of_first, of_second = measure(first, labels), measure(second, labels)
    return _draw(lambda weights: of_first(weights) - of_second(weights), labels, resampling)


def compare_scores(
    first: ArrayLike,
    second: ArrayLike,
    issame: ArrayLike,
    measure: Measure | None = None,
    resampling: Resampling = OVER_PAIRS,
) -> Comparison:
    """Compare two methods on the same pairs: both values, the interval of the difference, and its p-value.

    The p-value turns the percentile interval around: twice the share of resamples on the rarer side of 0, ties on both,
    with one more resample added to either side, so that it is never 0. It is NaN where no resample has the measure.

    Args and raises: as `paired_bootstrap`.
    Reference: Efron, Tibshirani, "An Introduction to the Bootstrap", 1993, Ch. 15.4; Davison, Hinkley, "Bootstrap
    Methods and their Application", 1997, Ch. 4 (the added resample).
    """
    labels = check_issame("compare_scores", issame)
    measure = measure or accuracy_measure()
    draws = paired_draws(first, second, labels, measure, resampling)
    existing = draws.values[~np.isnan(draws.values)]
    rarer = min(np.count_nonzero(existing <= 0), np.count_nonzero(existing >= 0))
    p_value = min(1.0, 2 * (1 + rarer) / (1 + existing.size)) if existing.size else float("nan")
    every = np.ones((1, labels.size))
    value, other = (float(measure(scores, labels)(every)[0]) for scores in (first, second))
    return Comparison(value, other, summarize(draws), p_value)


def rate_intervals(accepted: ArrayLike, issame: ArrayLike, resampling: Resampling = OVER_PAIRS) -> Rates:
    """Return the rates of decisions that are made, at a threshold from elsewhere, with their intervals.

    A rate of 0 or 1 has an interval of no width, whatever the number of pairs: `clopper_pearson` then says more. A rate
    of which there are no pairs is NaN.

    Args:
        accepted: bool [N]. issame: bool [N].
        resampling: over what, how often, seed.
    """
    labels = check_issame("rate_intervals", issame)
    decisions = np.asarray(accepted)
    if decisions.shape != labels.shape or decisions.dtype != np.bool_:
        raise ValueError(f"rate_intervals: accepted must be bool [{labels.size}], got {decisions.dtype}.")
    measure = weighted_rates(
        np.stack([decisions == labels, decisions & labels, decisions & ~labels], axis=1),
        np.stack([np.ones_like(labels), labels, ~labels], axis=1),
    )
    estimates = measure(np.ones((1, labels.size)))[0]
    blocks = [np.empty((0, 3)), *(measure(weights) for weights in _weights(labels, resampling))]
    drawn = np.concatenate(blocks)
    return Rates(*(summarize(Draws(float(one), drawn[:, place])) for place, one in enumerate(estimates)))


def auc_interval(scores: ArrayLike, issame: ArrayLike, resampling: Resampling = OVER_PAIRS) -> Interval:
    """Return the AUC of scores [N] with its interval; lower is a 97.5 % one-sided bound."""
    labels = check_issame("auc_interval", issame)
    return summarize(_draw(weighted_auc(scores, labels), labels, resampling))


def draw_all(
    names: Sequence[str], measures: Sequence[WeightedMeasure], issame: BoolArray, resampling: Resampling
) -> dict[str, Draws]:
    """Return the draws of several measures of the same pairs on the same resamples, whose weights are made once.

    Args:
        names: of all columns that the measures give together.
        measures: each gives [R] or [R, columns].
        issame, resampling: as of `paired_draws`.
    """

    def measure(weights: FloatArray) -> FloatArray:
        return np.column_stack([measure(weights) for measure in measures])

    once = measure(np.ones((1, issame.size)))[0]
    values = np.concatenate([measure(weights) for weights in _weights(issame, resampling)])
    return {name: Draws(float(once[column]), values[:, column]) for column, name in enumerate(names)}


def average(draws: Sequence[Draws]) -> Draws:
    """Return the mean over benchmarks, resample by resample.

    Give each benchmark's resampling a seed of its own where their identities differ, else their errors are taken to be
    alike.
    """
    return Draws(float(np.mean([d.estimate for d in draws])), np.mean([d.values for d in draws], axis=0))


def summarize(draws: Draws) -> Interval:
    """Return the 95 % percentile interval of the draws on which the measure existed."""
    existing = draws.values[~np.isnan(draws.values)]
    if np.isnan(draws.estimate) or existing.size == 0:
        return Interval(draws.estimate, float("nan"), float("nan"), 0)
    lower, upper = np.quantile(existing, [0.025, 0.975])
    return Interval(draws.estimate, float(lower), float(upper), existing.size)


def _draw(measure: WeightedMeasure, issame: BoolArray, resampling: Resampling) -> Draws:
    estimate = float(measure(np.ones((1, issame.size)))[0])
    return Draws(estimate, np.concatenate([measure(weights) for weights in _weights(issame, resampling)]))


def _weights(issame: BoolArray, resampling: Resampling) -> Iterator[FloatArray]:
    """Yield the weights of the resamples in blocks [r, N] that together have num_resamples rows."""
    rng = np.random.default_rng(resampling.seed)
    pairs = None if resampling.identities is None else _check_identities(resampling.identities, issame)
    num_units = issame.size if pairs is None else int(pairs.max()) + 1
    block = max(1, _CELLS_AT_ONCE // issame.size)
    for start in range(0, resampling.num_resamples, block):
        multiplicity = _multiplicities(rng, min(block, resampling.num_resamples - start), num_units)
        if pairs is None:
            yield multiplicity
        else:
            first = multiplicity[:, pairs[:, 0]]
            yield np.where(issame, first, first * multiplicity[:, pairs[:, 1]])


def _multiplicities(rng: np.random.Generator, num_resamples: int, num_units: int) -> FloatArray:
    drawn = rng.integers(num_units, size=(num_resamples, num_units)) + num_units * np.arange(num_resamples)[:, None]
    return np.bincount(drawn.ravel(), minlength=drawn.size).reshape(drawn.shape).astype(np.float64)


def _check_identities(identities: ArrayLike, issame: BoolArray) -> np.ndarray:
    array = np.asarray(identities)
    if array.shape != (issame.size, 2):
        raise ValueError(f"bootstrap: identities must be [{issame.size}, 2], one per image, got {list(array.shape)}.")
    contradictions = np.flatnonzero((array[:, 0] == array[:, 1]) != issame)
    if contradictions.size:
        raise ValueError(
            f"bootstrap: identities must agree with issame, got pair {contradictions[0]} with identities"
            f" {array[contradictions[0]].tolist()} and issame {bool(issame[contradictions[0]])}."
        )
    distinct, numbered = np.unique(array, return_inverse=True)
    if distinct.size < 2:
        raise ValueError("bootstrap: at least two identities are needed, got one; resample pairs instead.")
    return numbered.reshape(array.shape)
