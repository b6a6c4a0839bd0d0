"""The random numbers of an augmentation: a function of seed, epoch and place in the plan, for a whole batch at once."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

NUM_UNIFORMS: Final = 8  # float32 in one step of a Philox counter
# The fourth word of the counter tells the streams apart.
_GENERATORS, _UNIFORMS = 0, 1


class RandomStreams:
    """Random numbers of each (epoch, position), the same in whatever order and company they are asked for.

    A counter-based generator (Philox) has the seed as its key; to move its counter takes a microsecond. Every image
    needs a few uniform numbers, to decide by: a position owns the step of the counter after (position, 0, epoch, 1), so
    that a run of positions is one call. Few images need more: a position owns all steps after (0, position, epoch, 0).

    Args:
        seed: >= 0.
    """

    def __init__(self, seed: int) -> None:
        self._rng = np.random.Generator(np.random.Philox(seed))
        self._state = self._rng.bit_generator.state

    def uniforms(self, epochs: list[int], positions: list[int]) -> NDArray[np.float32]:
        """Return float32 [N, 8] in [0, 1), a row for each of N >= 1 epochs and positions, all >= 0."""
        num, epoch, first = len(positions), epochs[0], positions[0]
        if epochs == [epoch] * num and positions == list(range(first, first + num)):
            return self._at(first, 0, epoch, _UNIFORMS).random((num, NUM_UNIFORMS), np.float32)
        rows = [self.uniforms([epoch], [position]) for epoch, position in zip(epochs, positions, strict=True)]
        return np.concatenate(rows)

    def generator(self, epoch: int, position: int) -> np.random.Generator:
        """Return a generator at the first number of its stream; it is the same object each time."""
        return self._at(0, position, epoch, _GENERATORS)

    def _at(self, *counter: int) -> np.random.Generator:
        self._state["state"]["counter"][:] = counter
        self._rng.bit_generator.state = self._state
        return self._rng
