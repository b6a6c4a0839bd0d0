"""Rates of accepted pairs: a threshold for a false-accept rate, and how sure a counted rate is."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from evaluation.protocols.roc import clopper_pearson

_CELLS_AT_ONCE = 2_000_000  # weights of pairs in draws held at a time: 16 MB
_TAIL = 0.025  # beyond either end of an interval


class Rate(NamedTuple):
    """The share of pairs that are accepted, with two intervals of 95 %.

    Attributes:
        value: accepted / pairs.
        accepted, pairs: counts.
        lower, upper: from drawing people anew; where each draw gives the same, those of the exact interval.
        exact_lower, exact_upper: Clopper and Pearson's, for pairs that are independent. Those that share people are
            not, so it is too narrow as a rule.
    """

    value: float
    accepted: int
    pairs: int
    lower: float
    upper: float
    exact_lower: float
    exact_upper: float

    def __str__(self) -> str:
        return f"{percent(self.value)} [{percent(self.lower)}, {percent(self.upper)}] ({self.accepted} of {self.pairs})"


def percent(share: float) -> str:
    """Return a share in percent, two digits at least that are not 0."""
    return f"{100 * share:.3g} %"


def threshold_at(impostors: ArrayLike, far: float) -> float:
    """Return the lowest score of an impostor pair from which on at most a share `far` of them is accepted.

    A pair is accepted when score >= threshold. Where equal scores would exceed the share, the next higher one is taken.

    Args:
        impostors: [N] scores of pairs of different people.
        far: in (0, 1], with far * N >= 1.
    Raises:
        ValueError: if N pairs cannot show this FAR.
    """
    ordered = np.sort(np.asarray(impostors, dtype=np.float64))[::-1]
    allowed = int(np.searchsorted(np.arange(len(ordered) + 1) / max(1, len(ordered)), far, side="right")) - 1
    if allowed < 1:
        raise ValueError(f"threshold_at: {len(ordered)} impostor pairs cannot show a FAR of {far:g}; give more people.")
    threshold = ordered[allowed - 1]
    if allowed < len(ordered) and ordered[allowed] == threshold:
        higher = ordered[ordered > threshold]
        threshold = higher[-1] if len(higher) else np.nextafter(threshold, np.inf)
    return float(threshold)


class PeopleDraws:
    """Draws of people with replacement, as many as there are, and rates over the pairs that they bring along.

    A pair of two people weighs the product of how often either is drawn, a pair of one person that person's number.

    Args:
        people: int [N, 2], whom each pair shows, N >= 1; all pairs are of one kind.
        num_draws: how often.
        seed: of the draws.
    Reference: Bolle, Ratha, Pankanti, "Error analysis of pattern recognition systems: the subsets bootstrap", CVIU
        93(1), 2004.
    """

    def __init__(self, people: NDArray[np.int64], num_draws: int = 1000, seed: int = 0) -> None:
        distinct, numbered = np.unique(people, return_inverse=True)
        self._people = numbered.reshape(people.shape)
        self._num_people = len(distinct)
        rng = np.random.default_rng(seed)
        shares = np.full(self._num_people, 1 / self._num_people)
        self._drawn = rng.multinomial(self._num_people, shares, size=num_draws).astype(np.float64)
        self._pairs = self._count(np.ones(len(people), dtype=np.bool_))

    def rate(self, accepted: NDArray[np.bool_]) -> Rate:
        """Return the share of the pairs that are accepted, bool [N], with its intervals."""
        count, pairs = int(accepted.sum()), len(accepted)
        exact = clopper_pearson(count, pairs)
        there = self._pairs > 0
        shares = self._count(accepted)[there] / self._pairs[there]
        lower, upper = np.quantile(shares, [_TAIL, 1 - _TAIL]).tolist() if len(shares) else exact
        if lower == upper:
            lower, upper = exact
        return Rate(count / pairs, count, pairs, lower, upper, *exact)

    def _count(self, chosen: NDArray[np.bool_]) -> NDArray[np.float64]:
        """Return for every draw how many of the chosen pairs it brings along, [R]."""
        keys = self._people[chosen] @ np.array([self._num_people, 1])
        couples, repeated = np.unique(keys, return_counts=True)
        first, second = couples // self._num_people, couples % self._num_people
        total = np.zeros(len(self._drawn))
        step = max(1, _CELLS_AT_ONCE // max(1, len(couples)))
        for start in range(0, len(total), step):
            drawn = self._drawn[start : start + step]
            weights = drawn[:, first] * np.where(first == second, 1.0, drawn[:, second])
            total[start : start + step] = weights @ repeated
        return total
