"""Scores that stay comparable when faces are hidden: impostors' mean and spread as functions of what can be seen.

A score of few visible cells lies on another scale than one of many, so that no threshold fits both. Impostor pairs of
training people, clean and behind occluders, teach a smooth function which mean and which spread scores have at given
visible shares; a score's distance from that mean, in such spreads, is comparable with any other's.

With a, b the hidden shares of both faces and c the share of cells not seen in both, the terms are 1, a + b, ab,
a^2 + b^2, c, c^2, standardized. For each matcher the mean and the logarithm of the spread are linear in them: a
Gaussian of both by maximum likelihood, with a ridge; then how the spread above one spread differs from it, for
thresholds lie there. The product of two matchers' normalized scores has its mean likewise: their correlation, which
says how wide a weighted sum of them spreads. All of it is a few dozen numbers.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike

from evaluation.protocols.checks import BoolArray, FloatArray, check_scores
from evaluation.protocols.fusion import FALLBACK_WEIGHTS
from evaluation.protocols.roc import auc
from evaluation.scores.shares import Shares

logger = logging.getLogger(__name__)

NUM_TERMS = 6
LEAST_PAIRS = 100  # impostors that the numbers are fitted on, at the least
_RIDGE = 1e-3  # of the number of pairs, on standardized terms: what varies little says little
_NUM_STEPS = 12  # of Fisher scoring; it converges in five or six
_LEAST_SPREAD = 1e-6  # of scores that all are equal, at some share
_CORRELATIONS = (-0.5, 0.98)  # beyond, the spread of a sum would be all noise


@dataclass(frozen=True)
class ScoreNormalization:
    """Impostors' mean and spread by what can be seen, in primitives, so that it can live in a checkpoint.

    Attributes:
        mean, log_std: per matcher, 6 coefficients of the standardized terms.
        correlation: 6 coefficients of the mean product of two matchers' normalized scores; none for one matcher.
        center, scale: of the terms.
        least: the smallest visible and the smallest co-visible share that were fitted on; for smaller ones theirs hold.
        weights: per matcher, the weight of its normalized score in the combined one.
        source: where the impostors come from, in words for the report.
        num_impostors: how many pairs they are.
    """

    mean: Mapping[str, list[float]]
    log_std: Mapping[str, list[float]]
    correlation: list[float]
    center: list[float]
    scale: list[float]
    least: list[float]
    weights: Mapping[str, float]
    source: str
    num_impostors: int

    def to_dict(self) -> dict[str, object]:
        """Return the normalization as plain dictionaries, lists, numbers and text."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, object]) -> ScoreNormalization:
        """Rebuild what `to_dict` gave; what it holds is the caller's to check.

        Raises:
            ValueError: if fields are missing or unknown.
        """
        expected = list(cls.__dataclass_fields__)
        if set(values) != set(expected):
            raise ValueError(f"ScoreNormalization: fields must be {expected}, got {list(values)}.")
        return cls(**values)  # type: ignore[arg-type]  # the names are checked above, the types are ours

    def alone(self, matcher: str) -> ScoreNormalization:
        """Return what is known of the scores of one matcher, where there are no others."""
        return replace(
            self,
            mean={matcher: self.mean[matcher]},
            log_std={matcher: self.log_std[matcher]},
            correlation=[],
            weights={matcher: self.weights[matcher]},
        )

    def apply(self, scores: Mapping[str, ArrayLike], shares: Shares) -> dict[str, FloatArray]:
        """Return the normalized scores float64 [N] by matcher, and of two matchers the "combined" one.

        Args:
            scores: finite scores [N] of the matchers that it was fitted for, or of one of them.
            shares: of the same pairs.
        Raises:
            ValueError: if the matchers are others, or lengths differ.
        """
        if not scores or not set(scores) <= set(self.mean):
            raise ValueError(
                f"ScoreNormalization: scores of {sorted(self.mean)} are needed, got those of {sorted(scores)}."
            )
        terms = self._terms(shares)
        found = {
            name: (check_scores(f"ScoreNormalization, {name}", scores[name], len(terms)) - terms @ np.array(mean))
            * np.exp(-terms @ np.array(self.log_std[name]))
            for name, mean in self.mean.items()
            if name in scores
        }
        return found | ({"combined": self.combine(found, shares)} if len(found) == 2 else {})

    def combine(self, normalized: Mapping[str, FloatArray], shares: Shares) -> FloatArray:
        """Return the weighted sum [N] of two matchers' normalized scores, in spreads of its own."""
        one, two = self.weights.values()
        correlation = np.clip(self._terms(shares) @ np.array(self.correlation), *_CORRELATIONS)
        spread = np.sqrt(one**2 + two**2 + 2 * one * two * correlation)
        total = np.zeros_like(spread)
        for name, weight in self.weights.items():
            total += weight * normalized[name]
        return total / spread if one or two else total

    def _terms(self, shares: Shares) -> FloatArray:
        visible, co_visible = self.least
        clipped = Shares(shares.first.clip(visible), shares.second.clip(visible), shares.both.clip(co_visible))
        return (_raw_terms(clipped) - self.center) / self.scale


def fit_normalization(
    scores: Mapping[str, ArrayLike], shares: Shares, issame: BoolArray, weights: Mapping[str, float], source: str
) -> ScoreNormalization | None:
    """Return the normalization that impostor pairs teach, or None where they are fewer than 100.

    Where "qaconv" has an AUC below 0.5 on these pairs, it weighs as little as in `fuse`, and a warning says so.

    Args:
        scores: finite scores [N] by matcher, "adaface" and maybe "qaconv".
        shares: of the same pairs, which should differ in them as widely as those to normalize.
        issame: bool [N].
        weights: of the combined score, by matcher.
        source: where the pairs come from, in words.
    """
    num_impostors = int((~issame).sum())
    if num_impostors < LEAST_PAIRS:
        return None
    by_name = {name: check_scores(f"fit_normalization, {name}", values, issame.size) for name, values in scores.items()}
    impostors = Shares(*(column[~issame] for column in shares))
    raw = _raw_terms(impostors)
    center, scale = raw.mean(0), raw.std(0)
    center[0], scale[scale < _LEAST_SPREAD] = 0.0, 1.0  # the first term is 1
    scale[0] = 1.0
    terms = (raw - center) / scale
    gaussians = {name: _fit(values[~issame], terms) for name, values in by_name.items()}
    normalized = [
        (by_name[name][~issame] - terms @ mean) * np.exp(-terms @ log_std)
        for name, (mean, log_std) in gaussians.items()
    ]
    products = [_solve(terms, first * second).tolist() for first, second in pairwise(normalized)]
    return ScoreNormalization(
        mean={name: mean.tolist() for name, (mean, _) in gaussians.items()},
        log_std={name: log_std.tolist() for name, (_, log_std) in gaussians.items()},
        correlation=products[0] if products else [],
        center=center.tolist(),
        scale=scale.tolist(),
        least=[float(min(impostors.first.min(), impostors.second.min())), float(impostors.both.min())],
        weights=_usable_weights(by_name, issame, weights, source),
        source=source,
        num_impostors=num_impostors,
    )


def _raw_terms(shares: Shares) -> FloatArray:
    """Return [N, 6]."""
    first, second, both = 1 - shares.first, 1 - shares.second, 1 - shares.both
    columns = (np.ones_like(first), first + second, first * second, first**2 + second**2, both, both**2)
    return np.stack(columns, axis=1)


def _fit(scores: FloatArray, terms: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return the coefficients [6] of mean and log spread, by Fisher scoring; the spread is that of the upper tail."""
    mean = _solve(terms, scores)
    log_std = np.zeros(terms.shape[1])
    log_std[0] = np.log(max(float((scores - terms @ mean).std()), _LEAST_SPREAD))
    for _ in range(_NUM_STEPS):
        log_std = _fisher_step(log_std, scores - terms @ mean, terms)
        mean = _solve(terms, scores, np.exp(-2 * terms @ log_std))
    residuals = scores - terms @ mean
    normalized = residuals * np.exp(-terms @ log_std)
    upper = normalized > 1
    if upper.sum() < LEAST_PAIRS:
        return mean, log_std
    tail, scale = np.zeros_like(log_std), np.sqrt(np.square(normalized[upper]).mean())
    for _ in range(_NUM_STEPS):
        tail = _fisher_step(tail, normalized[upper] / scale, terms[upper])
    return mean, log_std + tail


def _fisher_step(log_std: FloatArray, residuals: FloatArray, terms: FloatArray) -> FloatArray:
    """Return the next log spread; its Fisher information is twice the terms' second moments."""
    squares = np.square(residuals * np.exp(-terms @ log_std))
    found = log_std + _solve(terms, (squares - 1) / 2).clip(-1, 1)
    found[0] = max(found[0], np.log(_LEAST_SPREAD))
    return found


def _solve(terms: FloatArray, values: FloatArray, weights: FloatArray | None = None) -> FloatArray:
    """Return the ridge regression of values on terms; the constant one is not held back."""
    weighted = terms if weights is None else terms * (weights / weights.mean())[:, None]
    ridge = _RIDGE * len(terms) * np.eye(terms.shape[1])
    ridge[0, 0] = 0.0
    found: FloatArray = np.linalg.solve(weighted.T @ terms + ridge, weighted.T @ values)
    return found


def _usable_weights(
    scores: Mapping[str, FloatArray], issame: BoolArray, weights: Mapping[str, float], source: str
) -> dict[str, float]:
    used = {name: float(weights[name]) for name in scores}
    if "qaconv" in scores and issame.any() and auc(scores["qaconv"], issame) < 0.5:
        used |= FALLBACK_WEIGHTS
        logger.warning("Fusion: QAConv has an AUC below 0.5 on %s; weights %s are used.", source, FALLBACK_WEIGHTS)
    return used
