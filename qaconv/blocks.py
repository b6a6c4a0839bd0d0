"""Maps to be matched and the tiles that cover all their pairs within a memory budget.

Legend of the shape suffixes: L groups (matched independently of each other), P probe maps, G gallery maps, S probe
cells, R gallery cells, C channels. A direction has A maps that look, K cells, and B maps that are looked at.
"""

from collections.abc import Iterator
from itertools import product
from math import isqrt
from typing import NamedTuple

from torch import Tensor

# One block of correlations: on the CPU of the order of the cache from which the two maxima read it, on an accelerator
# large enough to fill it.
CPU_BLOCK_BYTES = 4 * 2**20
ACCELERATOR_BLOCK_BYTES = 256 * 2**20

Tile = tuple[slice, slice, slice]  # groups, looking maps, maps looked at


class Maps(NamedTuple):
    """One side of a match."""

    features: Tensor  # [L, A, K, C] contiguous
    hidden: Tensor | None  # [L, A, K] bool; None on both sides: no cell is out of the max
    grad: Tensor | None = None  # like features, added to in the backward pass; None: not wanted


def _num_per_block(sizes: tuple[int, int, int], max_pairs: int) -> tuple[int, int, int]:
    """Return how many groups, probe and gallery maps make a block: as square as the sizes allow, at least 1 each."""
    num_groups, num_probe, num_gallery = sizes
    side = isqrt(max_pairs)
    gallery = min(num_gallery, side)
    probe = min(num_probe, side if gallery == side else max_pairs // gallery)
    if probe < side:
        gallery = min(num_gallery, max_pairs // probe)
    return min(num_groups, max_pairs // (probe * gallery)), probe, gallery


def tiles(looking: Tensor, looked_at: Tensor, block_bytes: int | None) -> Iterator[Tile]:
    """Yield the tiles that cover all pairs of maps; those of a set with itself are cut alike along both sides."""
    if block_bytes is None:
        block_bytes = CPU_BLOCK_BYTES if looking.device.type == "cpu" else ACCELERATOR_BLOCK_BYTES
    sizes = (looking.shape[0], looking.shape[1], looked_at.shape[1])
    if 0 in sizes:
        return
    pair_bytes = looking.shape[2] * looked_at.shape[2] * looking.element_size()
    steps = _num_per_block(sizes, max(1, block_bytes // pair_bytes))
    starts = product(*(range(0, size, step) for size, step in zip(sizes, steps, strict=True)))
    for group, probe, gallery in starts:
        yield slice(group, group + steps[0]), slice(probe, probe + steps[1]), slice(gallery, gallery + steps[2])


def unmatched(looking: Maps, looked_at: Maps) -> Tensor | None:
    """Return where [L, A, K, B] a cell has no match: it is hidden, or it looks at a map without a visible cell."""
    if looking.hidden is None or looked_at.hidden is None:
        return None
    return looking.hidden[..., None] | looked_at.hidden.all(dim=2)[:, None, None, :]
