"""Fusion of several matchers' scores: z-scores from impostor statistics, then a weighted sum."""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import ArrayLike

from evaluation.protocols.checks import BoolArray, FloatArray, Folds, check_both_kinds, check_issame, check_scores
from evaluation.protocols.folds import fold_of_pairs
from evaluation.protocols.roc import auc

logger = logging.getLogger(__name__)

# Where QAConv ranks less than half of the training comparisons right, it says little but is not thrown away.
FALLBACK_WEIGHTS = {"adaface": 0.8, "qaconv": 0.2}


@dataclass(frozen=True)
class FusionStatistics:
    """What fusing needs to know, in primitives, so that it can live in a checkpoint.

    Attributes:
        mean, std: per matcher, mean and population standard deviation of the impostor scores. std is 0 for a matcher
            whose impostor scores are all equal: no z-score exists then, and `fuse_with` leaves that matcher out.
        weights: per matcher, the weight of its z-score.
        source: where the statistics come from, in words for the report.
        num_impostors: how many impostor pairs they come from.
    """

    mean: Mapping[str, float]
    std: Mapping[str, float]
    weights: Mapping[str, float]
    source: str
    num_impostors: int

    def to_dict(self) -> dict[str, object]:
        """Return the statistics as plain dictionaries, numbers and text."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, object]) -> "FusionStatistics":
        """Rebuild what `to_dict` gave.

        Raises:
            ValueError: if fields are missing or unknown, or the matchers of mean, std and weights differ.
        """
        expected = list(cls.__dataclass_fields__)
        if set(values) != set(expected):
            raise ValueError(f"FusionStatistics: fields must be {expected}, got {list(values)}.")
        statistics = cls(**values)  # type: ignore[arg-type]  # the names are checked above, the types are ours
        if not set(statistics.mean) == set(statistics.std) == set(statistics.weights):
            raise ValueError(
                "FusionStatistics: mean, std and weights must name the same matchers, got"
                f" {list(statistics.mean)}, {list(statistics.std)}, {list(statistics.weights)}."
            )
        return statistics


def fuse(
    scores_by_matcher: Mapping[str, ArrayLike], issame: ArrayLike, weights: Mapping[str, float], folds: Folds = 10
) -> FloatArray:
    """Return fused scores float64 [F, N]: row f holds all pairs as the folds other than f tell to fuse them.

    In row f each matcher's scores are z-scored with the mean and the population standard deviation of the impostor
    scores of the other folds, and summed with the weights. Where "qaconv" has an AUC below 0.5 on those folds,
    "adaface" and "qaconv" weigh 0.8 and 0.2 in that row, and a warning names the fold. A matcher whose impostor scores
    there are all equal is left out of the row, also with a warning.

    Args:
        scores_by_matcher: name -> [N] finite scores, larger = more alike.
        issame: bool [N].
        weights: name -> finite weight, for exactly these matchers.
        folds: a count (contiguous folds) or an integer array [N] (see `fold_of_pairs`).
    Raises:
        ValueError: on disagreeing shapes or names, scores that are not finite, or training folds without both kinds of
            pairs.
    """
    labels = check_issame("fuse", issame)
    scores = _check_matchers("fuse", scores_by_matcher, labels.size, weights)
    fold_of_pair = fold_of_pairs(folds, labels.size)
    by_fold = {
        f"fold {fold}": _fit(scores, labels, fold_of_pair != fold, weights, f"all folds but {fold}")
        for fold in range(int(fold_of_pair.max()) + 1)
    }
    _warn_of_exceptions(by_fold, weights)
    return np.stack([_weighted_sum(scores, statistics) for statistics in by_fold.values()])


def fit_statistics(
    scores_by_matcher: Mapping[str, ArrayLike], issame: ArrayLike, weights: Mapping[str, float], source: str
) -> FusionStatistics:
    """Return the statistics of all pairs, for `fuse_with` on other data; rules and errors are those of `fuse`."""
    labels = check_issame("fit_statistics", issame)
    scores = _check_matchers("fit_statistics", scores_by_matcher, labels.size, weights)
    statistics = _fit(scores, labels, np.ones(labels.size, dtype=np.bool_), weights, source)
    _warn_of_exceptions({source: statistics}, weights)
    return statistics


def fuse_with(scores_by_matcher: Mapping[str, ArrayLike], statistics: FusionStatistics) -> FloatArray:
    """Return fused scores float64 [N] of pairs whose labels need not be known.

    Raises:
        ValueError: if the matchers are not those of the statistics, lengths differ, or scores are not finite.
    """
    num_pairs = max((np.size(scores) for scores in scores_by_matcher.values()), default=0)
    return _weighted_sum(_check_matchers("fuse_with", scores_by_matcher, num_pairs, statistics.weights), statistics)


def combine_folds(rows: FloatArray, folds: Folds = 10) -> FloatArray:
    """Return [N]: each pair's score from the row of its own fold, so that no pair's label shaped its own score."""
    return rows[fold_of_pairs(folds, rows.shape[1]), np.arange(rows.shape[1])]


def _check_matchers(
    place: str, scores_by_matcher: Mapping[str, ArrayLike], num_pairs: int, weights: Mapping[str, float]
) -> dict[str, FloatArray]:
    if not scores_by_matcher or set(scores_by_matcher) != set(weights):
        raise ValueError(
            f"{place}: weights must name the matchers {sorted(scores_by_matcher)}, got {sorted(weights)};"
            " give one weight per matcher."
        )
    if not np.isfinite(list(weights.values())).all():
        raise ValueError(f"{place}: weights must be finite, got {dict(weights)}.")
    scores = {name: check_scores(f"{place}, {name}", values, num_pairs) for name, values in scores_by_matcher.items()}
    for name, values in scores.items():
        if not np.isfinite(values).all():
            position = int(np.flatnonzero(~np.isfinite(values))[0])
            raise ValueError(f"{place}, {name}: scores must be finite, got {values[position]} at [{position}].")
    return scores


def _fit(
    scores: Mapping[str, FloatArray], issame: BoolArray, chosen: BoolArray, weights: Mapping[str, float], source: str
) -> FusionStatistics:
    _, num_impostors = check_both_kinds(f"fusion, {source}", issame[chosen])
    impostors = {name: values[chosen & ~issame] for name, values in scores.items()}
    fitted_weights = {name: float(weight) for name, weight in weights.items()}
    if "qaconv" in scores and auc(scores["qaconv"][chosen], issame[chosen]) < 0.5:
        fitted_weights |= {name: weight for name, weight in FALLBACK_WEIGHTS.items() if name in weights}
    return FusionStatistics(
        mean={name: float(values.mean()) for name, values in impostors.items()},
        std={name: _spread(values) for name, values in impostors.items()},
        weights=fitted_weights,
        source=source,
        num_impostors=num_impostors,
    )


def _spread(values: FloatArray) -> float:
    # The rounded mean of equal values can differ from them, which would leave a tiny positive deviation.
    return float(values.std()) if values.min() < values.max() else 0.0


def _weighted_sum(scores: Mapping[str, FloatArray], statistics: FusionStatistics) -> FloatArray:
    total = np.zeros_like(next(iter(scores.values())))
    for name, values in scores.items():
        if statistics.std[name] > 0:
            total += statistics.weights[name] * (values - statistics.mean[name]) / statistics.std[name]
    return total


def _warn_of_exceptions(by_place: Mapping[str, FusionStatistics], weights: Mapping[str, float]) -> None:
    changed = [place for place, statistics in by_place.items() if statistics.weights != weights]
    if changed:
        logger.warning(
            "Fusion: QAConv has an AUC below 0.5; weights %s are used for %s.", FALLBACK_WEIGHTS, _join(changed)
        )
    for name in weights:
        constant = [place for place, statistics in by_place.items() if statistics.std[name] == 0]
        if constant:
            logger.warning("Fusion: %s gives all impostors one score; it is left out for %s.", name, _join(constant))


def _join(places: Iterable[str]) -> str:
    return ", ".join(places)
