"""What is told of a method: its figures, and the bootstrap draws behind their intervals, of one drawing of occluders or
of several, of which the means and the spread are told."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from evaluation.protocols.bootstrap import Draws, summarize

_OF_FIRST = ("histogram", "det")  # their bins and points differ between drawings
_SPREAD = ("accuracy", "balanced_accuracy", "auc", "eer")


class Measured(NamedTuple):
    """Figures of a method, as `evaluation.report.results` has them without intervals, and draws of what has one.

    draws: "accuracy", "auc" and each FAR of `tar_at_far`, by its text; empty: there are no intervals.
    """

    figures: dict[str, Any]
    draws: Mapping[str, Draws]

    def to_dict(self) -> dict[str, Any]:
        """Return the figures with their intervals; null where there is none."""
        intervals = {name: summarize(drawn)._asdict() for name, drawn in self.draws.items()}
        rates = {
            far: {**rate, "interval": intervals.get(far) if rate["note"] is None else None}
            for far, rate in self.figures["tar_at_far"].items()
        }
        of_measures = {f"{name}_interval": intervals.get(name) for name in ("accuracy", "auc")}
        return {**self.figures, **of_measures, "tar_at_far": rates}


def mean_measured(parts: Sequence[Measured], seed: int = 0) -> Measured:
    """Return means over drawings of occluders, with `occlusion_draws`: {num, std}, the sample deviations between them.

    Histogram and DET are those of the first drawing; one drawing stays as it is.
    """
    if len(parts) == 1:
        return parts[0]
    figures = mean_figures([part.figures for part in parts]) | {
        name: parts[0].figures[name] for name in _OF_FIRST if name in parts[0].figures
    }
    spread: dict[str, Any] = {name: _std([part.figures[name] for part in parts]) for name in _SPREAD}
    rates = [part.figures["tar_at_far"] for part in parts]
    spread["tar_at_far"] = {far: _std([rate[far]["tar"] for rate in rates]) for far in rates[0]}
    figures["occlusion_draws"] = {"num": len(parts), "std": spread}
    mean = {name: mean_draws([part.draws[name] for part in parts], seed) for name in parts[0].draws}
    # All of them are shares, which the wider spread could leave.
    return Measured(figures, {name: Draws(d.estimate, np.clip(d.values, 0, 1)) for name, d in mean.items()})


def mean_draws(parts: Sequence[Draws], seed: int = 0) -> Draws:
    """Return the draws of the mean over drawings of occluders, each resampled with the same people.

    In every resample as many drawings as there are are drawn too, with replacement, so that the interval includes what
    other occluders would have given. That spread is widened by sqrt(n / (n - 1)), by which the deviation of n values
    from their own mean is too small.
    """
    num = len(parts)
    if num == 1:
        return parts[0]
    values = np.stack([part.values for part in parts])
    weights = np.random.default_rng(seed).multinomial(num, np.full(num, 1 / num), size=values.shape[1]).T / num
    center = values.mean(0)
    spread = (weights * values).sum(0) - center
    return Draws(float(np.mean([part.estimate for part in parts])), center + spread * np.sqrt(num / (num - 1)))


def mean_figures(values: Sequence[Any]) -> Any:
    """Return the mean of numbers, place by place in mappings and lists; what cannot have one is that of the first."""
    first = values[0]
    if isinstance(first, Mapping):
        return {key: mean_figures([value[key] for value in values]) for key in first}
    if isinstance(first, list):
        return [mean_figures(items) for items in zip(*values, strict=False)]
    if first is None or any(value is None for value in values):
        return None
    if isinstance(first, str) or all(value == first for value in values):
        return first
    return float(np.mean(values))


def _std(values: Sequence[float | None]) -> float | None:
    numbers = [value for value in values if value is not None]
    return float(np.std(numbers, ddof=1)) if len(numbers) == len(values) else None
