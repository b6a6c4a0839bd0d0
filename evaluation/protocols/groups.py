"""Figures of groups of pairs: by occluder, by visible share, by groups that the user names.

All groups are decided at the thresholds of the whole set, never at one of their own: where one group is refused more
often than another, a system with one threshold does that to people.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from evaluation.protocols.bootstrap import Interval, Resampling, rate_intervals
from evaluation.protocols.checks import BoolArray, check_issame
from evaluation.protocols.roc import clopper_pearson

VISIBLE_EDGES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)


class Grouping(NamedTuple):
    """The groups of N pairs: names, and int [N] places in them."""

    names: Sequence[str]
    places: NDArray[np.integer]

    @classmethod
    def of(cls, names: ArrayLike) -> "Grouping":
        """Return the grouping of N pairs by the name of each one's group; the names in ascending order."""
        distinct, places = np.unique(np.asarray(names), return_inverse=True)
        return cls([str(name) for name in distinct.tolist()], places.astype(np.int16))


class GroupFigures(NamedTuple):
    """One group of pairs; rates are NaN where there are no pairs of their kind.

    Attributes:
        num_genuine, num_impostor: pairs.
        num_people: in them, None where they are not known.
        accuracy: share of right decisions.
        tar, far: shares of genuine and of impostor pairs accepted.
        tar_exact, far_exact: Clopper-Pearson intervals of both, as if pairs were independent.
    """

    num_genuine: int
    num_impostor: int
    num_people: int | None
    accuracy: Interval
    tar: Interval
    far: Interval
    tar_exact: tuple[float, float]
    far_exact: tuple[float, float]

    def to_dict(self) -> dict[str, object]:
        """Return the entry of a result dictionary (see `evaluation.report.results`)."""
        return {
            name: value._asdict() if isinstance(value, Interval) else value for name, value in self._asdict().items()
        }


def figures_by_group(
    issame: ArrayLike,
    groups: Grouping,
    accepted: ArrayLike,
    resampling: Resampling = Resampling(),  # noqa: B008  # a tuple
) -> dict[str, GroupFigures]:
    """Return the figures of each group that has pairs, by name, in the order of the names.

    Args:
        issame: bool [N]. groups: of the pairs.
        accepted: bool [N], the decisions, at thresholds that no group chose for itself (`decide`).
        resampling: of the intervals; its identities [N, 2] are those of all pairs.
    Raises:
        ValueError: on disagreeing shapes, or identities that contradict issame.
    """
    labels, decisions = check_issame("figures_by_group", issame), np.asarray(accepted)
    for what, array in (("groups", groups.places), ("accepted", decisions)):
        if array.shape != labels.shape:
            raise ValueError(f"figures_by_group: {what} must be [{labels.size}], got {list(array.shape)}.")
    people = None if resampling.identities is None else np.asarray(resampling.identities)
    figures = {}
    for place, name in enumerate(groups.names):
        chosen = groups.places == place
        if chosen.any():
            within = resampling._replace(identities=None if people is None else people[chosen])
            figures[name] = _figures(labels[chosen], decisions[chosen], within)
    return figures


def visible_bins(shares: ArrayLike) -> Grouping:
    """Return the fifth of the visible share that each value of [N], in [0, 1], lies in; 1 is in the last."""
    ends = [f"{100 * edge:.0f}" for edge in VISIBLE_EDGES]
    names = [f"{low}-{high} %" for low, high in pairwise(ends)]
    return Grouping(names, np.searchsorted(VISIBLE_EDGES[1:-1], np.asarray(shares), side="right").astype(np.int16))


def _figures(issame: BoolArray, accepted: BoolArray, within: Resampling) -> GroupFigures:
    people = None if within.identities is None else np.unique(np.asarray(within.identities))
    # One person cannot be resampled.
    drawn = within if people is None or len(people) > 1 else Resampling(num_resamples=0)
    return GroupFigures(
        int(issame.sum()),
        int((~issame).sum()),
        None if people is None else len(people),
        *rate_intervals(accepted, issame, drawn),
        _exact(accepted[issame]),
        _exact(accepted[~issame]),
    )


def _exact(accepted: BoolArray) -> tuple[float, float]:
    if not accepted.size:
        return float("nan"), float("nan")
    return clopper_pearson(int(accepted.sum()), accepted.size)
