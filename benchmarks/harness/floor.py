"""The least time that arithmetic and memory allow: operations over the measured peak, bytes over the measured rate."""

from __future__ import annotations

import time
from functools import cache
from typing import NamedTuple

import torch

# Of the products that measure the peak. The next is eight times the work: where a processor has no instructions for a
# dtype, the large ones take minutes, and the small ones show the peak as well.
_SIDES = (256, 512, 1024, 2048)
_LONGEST = 0.1  # seconds, of a product after which a larger one is tried
_COPIED_NUMBERS = 2**25
_TRIES = 5


class Work(NamedTuple):
    """What a step cannot do without."""

    operations: float  # a multiplication and an addition are two
    num_bytes: float  # read or written at least once
    dtype: torch.dtype = torch.float32  # of the operations


def _best_seconds(output: torch.Tensor, *inputs: torch.Tensor) -> float:
    """Return the shortest of some products of two matrices, or copies of one tensor."""
    seconds = []
    for _ in range(_TRIES):
        start = time.perf_counter()
        torch.mm(*inputs, out=output) if len(inputs) == 2 else output.copy_(inputs[0])
        seconds.append(time.perf_counter() - start)
    return min(seconds)


@cache
def peak_operations(dtype: torch.dtype) -> float:
    """Return operations per second of the best of some large square products, once per process."""
    best = 0.0
    for side in _SIDES:
        left, right = (torch.randn(side, side).to(dtype) for _ in range(2))
        seconds = _best_seconds(torch.empty_like(left), left, right)
        best = max(best, 2 * side**3 / seconds)
        if seconds > _LONGEST:
            break
    return best


@cache
def peak_bytes() -> float:
    """Return bytes per second, read and written, of the best of some large copies, once per process."""
    source = torch.zeros(_COPIED_NUMBERS)
    return 2 * source.numel() * source.element_size() / _best_seconds(torch.zeros_like(source), source)


def floor_seconds(work: Work) -> float:
    """Return the larger of the time for the operations and the time for the bytes."""
    return max(work.operations / peak_operations(work.dtype), work.num_bytes / peak_bytes())
