"""Memory for batches that is used again: the first touch of fresh pages costs as much as all else but the decoding."""

from __future__ import annotations

import weakref
from typing import Final

import numpy as np
from numpy.typing import NDArray

from transforms import IMAGE_SIZE

Pixels = NDArray[np.uint8]

_MASK_BYTES: Final = IMAGE_SIZE * IMAGE_SIZE
_MAX_FREE: Final = 2  # the batch in use and the next one


class BatchMemory:
    """Arrays for batches of one size, in memory that no array or tensor refers to any more."""

    def __init__(self) -> None:
        self._free: list[Pixels] = []

    def __reduce__(self) -> tuple[type[BatchMemory], tuple[()]]:
        return BatchMemory, ()  # another process has memory of its own

    def take(self, num: int) -> tuple[Pixels, Pixels]:
        """Return arrays for images and visibility, uint8 [num, 112, 112, 3] and [num, 112, 112], holding anything."""
        num_bytes = 4 * num * _MASK_BYTES
        memory = self._free.pop() if self._free else np.empty(num_bytes, np.uint8)
        if memory.nbytes != num_bytes:
            memory = np.empty(num_bytes, np.uint8)
        # Over a memoryview, not over the array: whatever is cut from `whole`, however often, then refers to `whole`.
        whole = np.frombuffer(memory.data, np.uint8)
        weakref.finalize(whole, self._give_back, memory).atexit = False
        images, visibility = np.split(whole, [3 * num * _MASK_BYTES])
        shape = (num, IMAGE_SIZE, IMAGE_SIZE)
        return images.reshape(*shape, 3), visibility.reshape(shape)

    def _give_back(self, memory: Pixels) -> None:
        if len(self._free) < _MAX_FREE:
            self._free.append(memory)
