"""Means over seeds and their paired differences, with intervals over people and seeds, and how tables show them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from benchmarks.harness.tables import Value
from evaluation import Draws, Interval, average, summarize
from evaluation.protocols.measured import mean_draws

WIDE = 30  # of columns that are justified to the left
Arm = Sequence[Mapping[str, Draws]]  # a seed each: by figure or set, the value and that of each resample of people
Arms = Mapping[str, Arm]
Rows = list[dict[str, Value]]


def over_seeds(arm: Arm, names: Sequence[str] = ()) -> Interval:
    """Return the mean over sets and seeds with its 95 % interval, of people and, where there are several, of seeds.

    Args:
        arm: of the seeds.
        names: of the sets; none: all.
    """
    return summarize(average([mean_draws([one[name] for one in arm]) for name in names or arm[0]]))


def minus(first: Arm, second: Arm) -> Arm:
    """Return the difference, seed by seed, set by set and resample by resample."""
    return [
        {name: Draws(a[name].estimate - b[name].estimate, a[name].values - b[name].values) for name in a}
        for a, b in zip(first, second, strict=True)
    ]


def percent(found: Interval, sign: str = "") -> str:
    """Return the estimate and its interval in percent; sign "+" for differences, in points.

    The spread of seeds knows no ends: an interval of a rate is cut at 0 and 100.
    """
    values = found[:3] if sign else [min(max(value, 0.0), 1.0) for value in found[:3]]
    estimate, lower, upper = (f"{100 * value:{sign}.1f}" for value in values)
    return f"{estimate} [{lower}, {upper}]"
