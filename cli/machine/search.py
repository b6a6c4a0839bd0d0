"""How the largest batch and the fastest flags are searched, whatever a trial is. Standard library only."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

FINENESS = 16  # the batch found is the largest one but for a 16th part of it
GAIN = 1.02  # what a flag must bring to be worth it
CLOSE = 0.9  # share of the highest rate from which on another measurement may turn things round


class Sizes(NamedTuple):
    """The batches that may be tried: multiples of `unit` from `smallest` to `most`."""

    unit: int
    smallest: int
    most: int


def largest_batch(fits: Callable[[int], bool], sizes: Sizes, start: int) -> int | None:
    """Return the largest batch that fits, by doubling and then bisecting; None where not even the smallest does.

    It is the largest but for less than a unit or a 16th part of it, whichever is more, if what is larger than a batch
    that does not fit does not fit either. No size is asked about twice.

    Args:
        fits: says of a size whether it fits.
        sizes: that may be tried.
        start: the first size to try; one that may not be tried gives way to the nearest smaller one that may.
    """
    unit, smallest, most = sizes
    good, bad = 0, most // unit * unit + unit  # what is known to fit, and not to
    size = max(smallest, min(start, most) // unit * unit)
    while good < size < bad:
        if fits(size):
            good, size = size, min(2 * size, bad - unit)
        else:
            bad = size
            size = good or max(smallest, size // 2 // unit * unit)
    if not good:
        return None
    while bad - good > max(unit, good // FINENESS):
        middle = (good + bad) // 2 // unit * unit
        if fits(middle):
            good = middle
        else:
            bad = middle
    return good


def climb(
    rate: Callable[[Mapping[str, Any], int], float | None],
    start: Mapping[str, Any],
    choices: Mapping[str, Sequence[Any]],
) -> dict[str, Any]:
    """Return the fastest flags found, one flag after another, each at the best values of those before it.

    A measurement is only ever too slow, because of what else the machine does: of several the highest counts. Where
    values of a flag come close to each other, or one looks better than what there was, they are measured once more, one
    after another, what there was among them.

    Args:
        rate: images per second with some flags, in the measurement of this number; None: they do not work.
        start: the flags to begin with.
        choices: values to try, by flag, in the order in which they are tried.
    """
    rates: dict[tuple[Any, ...], list[float]] = {}

    def fastest(flags: Mapping[str, Any]) -> float:
        return max(rates[tuple(flags.values())])

    def measure(flags: Mapping[str, Any]) -> None:
        known = rates.setdefault(tuple(flags.values()), [])
        known.append(rate(flags, len(known)) or 0.0)

    best = dict(start)
    measure(best)
    for name, values in choices.items():
        others = [best | {name: value} for value in values if value != best[name]]
        for flags in others:
            measure(flags)
        highest = max(map(fastest, [best, *others]))
        close = [flags for flags in others if fastest(flags) >= max(CLOSE * highest, 1e-12)]
        for flags in [best, *close] if close else []:
            measure(flags)
        winner = max([best, *others], key=fastest)
        if fastest(winner) > GAIN * fastest(best):
            best = winner
    return best


def smaller_batches(largest: int, sizes: Sizes) -> Iterator[int]:
    """Yield a batch, half of it and a quarter, as far as they may be tried."""
    for part in (1, 2, 4):
        size = largest // part // sizes.unit * sizes.unit
        if size >= sizes.smallest:
            yield size


def choices_of_flags(cores: int, on_gpu: bool, has_bf16: bool) -> dict[str, list[Any]]:
    """Return what is tried of each flag, in the order in which it is tried.

    Args:
        cores: that this process may use.
        on_gpu: whether a GPU computes.
        has_bf16: whether the CPU has arithmetic for bfloat16; elsewhere it would take several times as long.
    """
    halves = ["bf16", "16"] if on_gpu else ["bf16"] * has_bf16
    workers = [0, *(2**power for power in range(cores.bit_length())), cores]
    return {
        "precision": ["32", *halves],
        "compile": [False, True],
        "channels_last": [True, False],
        "num_workers": sorted({number for number in workers if number <= cores}),
        "threads": sorted({number for number in (1, cores // 2, cores - 1, cores) if number > 0}),
    }
