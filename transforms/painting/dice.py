"""Uniform draws for an occluder, which needs some forty numbers."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

_BLOCK: Final = 64


class Dice:
    """Single numbers from a generator that is asked for blocks: one call of it costs as much as twenty numbers."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self._next = _numbers(rng).__next__

    def uniform(self, low: float, high: float) -> float:
        """Return a number in [low, high)."""
        return low + (high - low) * self._next()

    def around_zero(self, reach: float, count: int) -> list[float]:
        """Return `count` numbers in [-reach, reach)."""
        draw, width = self._next, 2 * reach
        return [width * draw() - reach for _ in range(count)]

    def whole(self, reach: int) -> int:
        """Return one of -reach, ..., reach."""
        return self.index(2 * reach + 1) - reach

    def index(self, count: int) -> int:
        """Return one of 0, ..., count - 1."""
        return int(count * self._next())

    def bytes(self, count: int) -> NDArray[np.uint8]:
        """Return `count` levels, uint8 [count]."""
        return np.frombuffer(self._rng.bytes(count), np.uint8)

    def chance(self, probability: float) -> bool:
        """Return True with a probability."""
        return self._next() < probability


def fixed_dice(name: str, variant: int) -> Dice:
    """Return the dice of something that is prepared once: the same numbers in every process and every run."""
    return Dice(np.random.default_rng([zlib.crc32(name.encode()), variant]))


def _numbers(rng: np.random.Generator) -> Iterator[float]:
    while True:
        yield from rng.random(_BLOCK).tolist()
