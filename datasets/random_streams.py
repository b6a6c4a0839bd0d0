"""The random numbers of an augmentation: a function of seed and `SampleKey`, for a whole batch at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from datasets.sample import SampleKey

NUM_UNIFORMS: Final = 8  # float32 in one step of a Philox counter
# The fourth word of the counter tells the streams apart: data set, view, and which of these two.
_GENERATORS, _UNIFORMS = 0, 1
_FEW: Final = 8  # rows made for one that is asked for: a call for each row costs more


class RandomStreams:
    """Random numbers of each sample, the same in whatever order and company they are asked for.

    A counter-based generator (Philox) has the seed as its key; to move its counter takes a microsecond. Every image
    needs a few uniform numbers, to decide by: a position owns the step of the counter after (position, 0, epoch, w),
    so that a run of positions is one call. Few images need more: a position owns all steps after
    (0, position, epoch, w). w = 2^32 * data set + 2 * view, plus 1 for the uniform numbers.

    Args:
        seed: >= 0.
    """

    def __init__(self, seed: int) -> None:
        self._rng = np.random.Generator(np.random.Philox(seed))
        self._state = self._rng.bit_generator.state

    def uniforms(self, keys: Sequence[SampleKey]) -> NDArray[np.float32]:
        """Return float32 [N, 8] in [0, 1), a row for each of N >= 1 keys, whose numbers are all >= 0."""
        datasets, _, epochs, positions, views = map(list, zip(*keys, strict=True))
        first, last = min(positions), max(positions)
        is_one_stream = all(values == values[:1] * len(keys) for values in (datasets, epochs, views))
        if is_one_stream and last - first < _FEW * len(keys):
            rows = self._at(keys[0], first, 0, _UNIFORMS).random((last - first + 1, NUM_UNIFORMS), np.float32)
            return rows[np.array(positions) - first]
        return np.concatenate([self.uniforms([key]) for key in keys])

    def generator(self, key: SampleKey) -> np.random.Generator:
        """Return a generator at the first number of the key's stream; it is the same object each time."""
        return self._at(key, 0, key.position, _GENERATORS)

    def _at(self, key: SampleKey, first: int, second: int, stream: int) -> np.random.Generator:
        word = (key.dataset << 32) + (key.view << 1) + stream
        self._state["state"]["counter"][:] = first, second, key.epoch, word
        self._rng.bit_generator.state = self._state
        return self._rng
