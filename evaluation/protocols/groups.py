"""Figures of groups of pairs: by occluder, by visible share, by groups that the user names.

All groups are decided at the thresholds of the whole set, never at one of their own: where one group is refused more
often than another, a system with one threshold does that to people.
"""

from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from evaluation.protocols.bootstrap import Interval, Resampling, auc_interval, rate_interval
from evaluation.protocols.checks import BoolArray, check_issame, check_scores
from evaluation.protocols.roc import clopper_pearson

VISIBLE_EDGES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)


class GroupFigures(NamedTuple):
    """One group of pairs; rates are NaN where there are no pairs of their kind.

    Attributes:
        num_genuine, num_impostor: pairs.
        num_people: in them, None where they are not known.
        accuracy: share of right decisions.
        tar, far: shares of genuine and of impostor pairs accepted.
        tar_exact, far_exact: Clopper-Pearson intervals of both, as if pairs were independent.
        auc: within the group.
    """

    num_genuine: int
    num_impostor: int
    num_people: int | None
    accuracy: Interval
    tar: Interval
    far: Interval
    tar_exact: tuple[float, float]
    far_exact: tuple[float, float]
    auc: Interval

    def to_dict(self) -> dict[str, object]:
        """Return the entry of a result dictionary (see `evaluation.report.results`)."""
        return {
            name: value._asdict() if isinstance(value, Interval) else value for name, value in self._asdict().items()
        }


def figures_by_group(
    scores: ArrayLike,
    issame: ArrayLike,
    groups: ArrayLike,
    accepted: ArrayLike,
    resampling: Resampling = Resampling(),  # noqa: B008  # a tuple
) -> dict[str, GroupFigures]:
    """Return the figures of each group of pairs, by name, in ascending order.

    Args:
        scores: [N] floating. issame: bool [N]. groups: [N], the name of each pair's group.
        accepted: bool [N], the decisions, at thresholds that no group chose for itself (`decide`).
        resampling: of the intervals; its identities [N, 2] are those of all pairs.
    Raises:
        ValueError: on disagreeing shapes or NaN scores.
    """
    labels = check_issame("figures_by_group", issame)
    values = check_scores("figures_by_group", scores, labels.size)
    names, decisions = np.asarray(groups), np.asarray(accepted)
    for what, array in (("groups", names), ("accepted", decisions)):
        if array.shape != labels.shape:
            raise ValueError(f"figures_by_group: {what} must be [{labels.size}], got {list(array.shape)}.")
    people = None if resampling.identities is None else np.asarray(resampling.identities)
    figures = {}
    for name in np.unique(names):
        chosen = names == name
        within = resampling._replace(identities=None if people is None else people[chosen])
        figures[str(name)] = _figures(values[chosen], labels[chosen], decisions[chosen], within)
    return figures


def visible_bins(shares: ArrayLike) -> NDArray[np.str_]:
    """Return the fifth of the visible share that each value of [N], in [0, 1], lies in, by name; 1 is in the last."""
    places = np.searchsorted(VISIBLE_EDGES[1:-1], np.asarray(shares), side="right")
    ends = [f"{100 * edge:.0f}" for edge in VISIBLE_EDGES]
    return np.array([f"{low:>2}-{high} %" for low, high in pairwise(ends)])[places]


def _figures(scores: NDArray[np.float64], issame: BoolArray, accepted: BoolArray, within: Resampling) -> GroupFigures:
    people = None if within.identities is None else np.unique(np.asarray(within.identities))
    # One person cannot be resampled, and has no impostor pairs.
    drawn = within if people is None or len(people) > 1 else Resampling(num_resamples=0)
    none = Interval(float("nan"), float("nan"), float("nan"), 0)
    return GroupFigures(
        num_genuine=int(issame.sum()),
        num_impostor=int((~issame).sum()),
        num_people=None if people is None else len(people),
        accuracy=rate_interval(accepted, issame, "accuracy", drawn),
        tar=rate_interval(accepted, issame, "tar", drawn),
        far=rate_interval(accepted, issame, "far", drawn),
        tar_exact=_exact(accepted[issame]),
        far_exact=_exact(accepted[~issame]),
        auc=auc_interval(scores, issame, within) if issame.any() and not issame.all() else none,
    )


def _exact(accepted: BoolArray) -> tuple[float, float]:
    if not accepted.size:
        return float("nan"), float("nan")
    return clopper_pearson(int(accepted.sum()), accepted.size)
