"""A number that changes at some epochs and stays between them, as a word: "0:0,5:0.3" is 0, and 0.3 from epoch 5 on."""

from __future__ import annotations

import math
from typing import TypeAlias

EpochSteps: TypeAlias = tuple[tuple[int, float], ...]


def read_epoch_steps(text: str, low: float = -math.inf, high: float = math.inf) -> EpochSteps:
    """Return (first epoch, value) of each step, the first of epoch 0.

    Raises:
        ValueError: if the text is no such list, epochs do not rise from 0 or a value is outside [low, high].
    """
    steps = []
    for word in text.split(","):
        epoch, separator, value = word.strip().partition(":")
        try:
            steps.append((int(epoch), float(value)))
        except ValueError:
            separator = ""
        if not separator:
            raise ValueError(f"expected epoch:value with commas between, as 0:0,5:0.3; got {text!r}")
    epochs = [epoch for epoch, _ in steps]
    if epochs[0] != 0 or epochs != sorted(set(epochs)):
        raise ValueError(f"epochs must rise from 0, got {text!r}")
    outside = [value for _, value in steps if not low <= value <= high]
    if outside:
        raise ValueError(f"values must be in [{low:g}, {high:g}], got {outside[0]:g}")
    return tuple(steps)


def value_at(steps: EpochSteps, epoch: int) -> float:
    """Return the value in an epoch >= 0."""
    return next(value for first, value in reversed(steps) if first <= epoch)
