"""The figures of a fit as text. Standard library only."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from cli.machine.record import Trial

PERCENTILES = (50, 90, 99)
MIB = 2**20
UNKNOWN = "-"


def percentiles(seconds: Sequence[float]) -> dict[str, float]:
    """Return p50, p90 and p99 of some numbers, each one of them: the smallest that so many per cent do not exceed."""
    ordered = sorted(seconds)
    return {f"p{part}": ordered[max(0, math.ceil(part / 100 * len(ordered)) - 1)] for part in PERCENTILES}


def images_per_second(trial: Trial) -> float | None:
    """Return how many images a training takes a second over its timed steps; None where they were not timed.

    Not by the median step: batches come in bursts where a training waits for its workers.
    """
    if not trial.fits or not trial.step_seconds:
        return None
    return trial.images * len(trial.step_seconds) / sum(trial.step_seconds)


def joined(trials: Sequence[Trial]) -> Trial:
    """Return what several trials of the same found out as one: the steps of those that fit, or else the first."""
    fitting = [each for each in trials if each.fits]
    if not fitting:
        return trials[0]
    peaks = [each.peak_bytes for each in fitting if each.peak_bytes is not None]
    steps = [number for each in fitting for number in each.step_seconds]
    return replace(fitting[0], step_seconds=steps, peak_bytes=max(peaks, default=None))


def flags_text(flags: Mapping[str, Any]) -> str:
    """Return flags as they are typed."""
    words = []
    for name, value in flags.items():
        if isinstance(value, bool):
            words.append(f"--{'' if value else 'no_'}{name}")
        else:
            words.append(f"--{name} {value}")
    return " ".join(words)


def outcome_text(trial: Trial) -> str:
    """Return a line about a trial that is over."""
    parts = [trial.outcome]
    if trial.peak_bytes is not None:
        parts.append(f"{_mib(trial.peak_bytes)} MiB")
    if (rate := images_per_second(trial)) is not None:
        parts.append(f"{rate:.1f} images/s")
    parts.append(f"{trial.seconds:.1f} s")
    return ", ".join(parts) + (f" ({trial.reason})" if trial.reason else "")


def spread_text(rates: Sequence[float]) -> str:
    """Return the highest of some measurements of the same, in images a second, and how far apart they are."""
    text = f"{max(rates):.1f} images/s"
    return f"{text} (measured once)" if len(rates) == 1 else f"{text} (the lowest of {len(rates)}: {min(rates):.1f})"


def phase_table(trial: Trial) -> Iterator[str]:
    """Yield the lines of the table of one step's phases; none where there was none."""
    if not trial.phases:
        return
    yield f"one step of {trial.images} images, by phase; memory is the most that was held in it, workers left out"
    rows = [(name, _ms(phase["seconds"]), _mib(phase["peak_bytes"])) for name, phase in trial.phases.items()]
    yield from aligned([("phase", "ms", "MiB"), *rows])


def training_table(trials: Iterable[Trial]) -> Iterator[str]:
    """Yield the lines of the table of training."""
    yield "training: a step"
    rows: list[tuple[str, ...]] = [
        ("batch", "precision", "images/s", *(f"p{part} ms" for part in PERCENTILES), "MiB", "steps")
    ]
    for trial in trials:
        rate = images_per_second(trial)
        first = (str(trial.flags["batch_size"]), str(trial.flags["precision"]))
        if rate is None:
            rows.append((*first, trial.outcome, *[UNKNOWN] * len(PERCENTILES), _mib(trial.peak_bytes), UNKNOWN))
        else:
            found = percentiles(trial.step_seconds)
            steps = str(len(trial.step_seconds))
            rows.append((*first, f"{rate:.1f}", *map(_ms, found.values()), _mib(trial.peak_bytes), steps))
    yield from aligned(rows)


def rows_table(title: str, unit: str, trials: Iterable[Trial]) -> Iterator[str]:
    """Yield the lines of a table of embedding or matching.

    Args:
        title: of the table.
        unit: what a batch holds.
        trials: of one kind, one for each precision.
    """
    yield title
    rows: list[tuple[str, ...]] = [
        ("batch", "precision", f"{unit}/s", *(f"p{part} ms" for part in PERCENTILES), "MiB", "runs")
    ]
    for trial in trials:
        precision = str(trial.flags["precision"])
        for row in trial.rows:
            times = [row[f"p{part}"] for part in PERCENTILES]
            rate = UNKNOWN if not times[0] else f"{(row['batch'] or 0) / times[0]:.1f}"
            runs, batch = f"{row['runs']:.0f}", f"{row['batch']:.0f}"
            rows.append((batch, precision, rate, *map(_ms, times), _mib(row["peak_bytes"]), runs))
        if not trial.fits:
            rows.append((UNKNOWN, precision, trial.outcome, *[UNKNOWN] * (len(PERCENTILES) + 2)))
    yield from aligned(rows)


def aligned(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield rows of cells as lines, the cells of a column as wide as its widest, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  " + "  ".join(f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True))


def _ms(seconds: float | None) -> str:
    return UNKNOWN if seconds is None else f"{1000 * seconds:,.1f}"


def _mib(size: float | None) -> str:
    return UNKNOWN if size is None else f"{size / MIB:,.0f}"
