"""What is measured on the scores: normalization, weights and thresholds from development people, claims on others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from evaluation import (
    METHODS,
    Draws,
    FusionStatistics,
    Interval,
    Resampling,
    average,
    fit_statistics,
    fuse_with,
    paired_draws,
    roc_curve,
    summarize,
    tar_measure,
)
from evaluation.protocols.weighted import WeightedMeasure

FAR = 1e-2
WEIGHTS = {"adaface": 0.5, "qaconv": 0.5}  # of the fused score: the default, as good as any on development people

Scores = Mapping[str, NDArray[np.float32]]  # by matcher, of one condition


class Pairs(NamedTuple):
    """Every pair of a group's images: issame bool [N], identities int64 [N, 2]."""

    issame: NDArray[np.bool_]
    identities: NDArray[np.int64]


class Decision(NamedTuple):
    """What development people teach of one run under one condition."""

    statistics: FusionStatistics | None
    thresholds: dict[str, float]


class Figures(NamedTuple):
    """Balanced accuracy and TAR@FAR 1e-2, in percent."""

    accuracy: float
    tar: float


def scores_of(saved: Mapping[str, NDArray[np.float32]], condition: str) -> Scores:
    """Return a condition's scores by matcher out of "<condition>/<matcher>"."""
    return {key.split("/")[1]: values for key, values in saved.items() if key.split("/")[0] == condition}


def by_method(scores: Scores, statistics: FusionStatistics | None) -> dict[str, NDArray[np.float64]]:
    """Return the scores of each method there is: the matchers', and their fusion with the statistics."""
    methods = {name: values.astype(np.float64) for name, values in scores.items()}
    if statistics is not None:
        methods["combined"] = fuse_with(scores, statistics)
    return {name: methods[name] for name in METHODS if name in methods}


def decide(scores: Scores, pairs: Pairs, weights: Mapping[str, float] = WEIGHTS) -> Decision:
    """Fit normalization and thresholds on development people."""
    statistics = fit_statistics(scores, pairs.issame, weights, "development people") if "qaconv" in scores else None
    methods = by_method(scores, statistics)
    return Decision(statistics, {name: balanced_threshold(values, pairs.issame) for name, values in methods.items()})


def balanced_threshold(scores: ArrayLike, issame: NDArray[np.bool_]) -> float:
    """Return the threshold with the largest TAR - FAR."""
    curve = roc_curve(scores, issame)
    return float(curve.threshold[np.argmax(curve.tar - curve.far)])


def figures(scores: ArrayLike, threshold: float, issame: NDArray[np.bool_]) -> Figures:
    """Return what the tables show of one method."""
    ones = np.ones((1, issame.size))
    accuracy = balanced_accuracy(np.asarray(scores) - threshold, issame)(ones)[0]
    return Figures(100 * accuracy, 100 * float(tar_measure(FAR)(scores, issame)(ones)[0]))


def balanced_accuracy(margins: ArrayLike, issame: NDArray[np.bool_]) -> WeightedMeasure:
    """Return the measure (TAR + 1 - FAR) / 2 of scores from which their threshold has been taken.

    All pairs of N people hold over a hundred impostors a genuine one, so plain accuracy would be that of the impostors.
    """
    right = (np.asarray(margins) >= 0) == issame

    def measure(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        shares = [(weights[:, kind] @ right[kind]) / weights[:, kind].sum(1) for kind in (issame, ~issame)]
        return np.mean(shares, axis=0)

    return measure


class Side(NamedTuple):
    """One method of one run: scores float64 [N] and the threshold that development people gave."""

    scores: NDArray[np.float64]
    threshold: float


class Comparison(NamedTuple):
    """One method against another, a run of each per seed."""

    first: Sequence[Side]
    second: Sequence[Side]


def compare(comparison: Comparison, pairs: Pairs, resampling: Resampling) -> dict[str, Interval]:
    """Return the mean over seeds of the paired differences in points, with intervals over people."""
    resampling = resampling._replace(identities=pairs.identities)
    draws: dict[str, list[Draws]] = {"accuracy": [], "tar": []}
    for a, b in zip(comparison.first, comparison.second, strict=True):
        margins = a.scores - a.threshold, b.scores - b.threshold
        draws["accuracy"].append(paired_draws(*margins, pairs.issame, balanced_accuracy, resampling))
        draws["tar"].append(paired_draws(a.scores, b.scores, pairs.issame, tar_measure(FAR), resampling))
    # One seed for all: a resample holds the same people in every run, so their error is not averaged away.
    return {name: _in_points(summarize(average(values))) for name, values in draws.items()}


def _in_points(interval: Interval) -> Interval:
    return Interval(100 * interval.estimate, 100 * interval.lower, 100 * interval.upper, interval.num_resamples)
