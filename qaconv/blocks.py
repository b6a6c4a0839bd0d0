"""Maps to be matched and the blocks that cover all their pairs within a memory budget.

Legend of the shape suffixes: L groups (matched independently of each other), P probe maps, G gallery maps, S probe
cells, R gallery cells, C channels. A direction has A maps that look, K cells, and B maps that are looked at.
"""

from collections.abc import Iterator
from itertools import product
from math import isqrt
from typing import NamedTuple

import torch
from torch import Tensor

# One block of correlations: on the CPU of the order of the cache from which the two maxima read it, on an accelerator
# large enough to fill it.
CPU_BLOCK_BYTES = 5 * 2**20
ACCELERATOR_BLOCK_BYTES = 256 * 2**20

# Neighbouring numbers of which the CPU takes the maximum in one strip of vector registers.
_LANES = 32
# Rows below which a product spends much of its time on arranging its columns.
_FEW_ROWS = 392
# Maps on a side of a block, of which rows of it are a multiple: products write rows of such lengths faster.
_EVEN_SIDES = (16, 8, 4)

Tile = tuple[slice, slice, slice]  # groups, looking maps, maps looked at


class Maps(NamedTuple):
    """One side of a match."""

    features: Tensor  # [L, A, K, C]
    hidden: Tensor | None  # [L, A, K] bool; None on both sides: no cell is out of the max
    grad: Tensor | None = None  # like features, added to in the backward pass; None: not wanted


class Block(NamedTuple):
    """How much of a match is correlated at a time, and how it lies in memory."""

    groups: int
    probes: int
    galleries: int
    cells: int  # of each gallery map
    maps_are_neighbours: bool  # [.., R, G] in memory, for vectorized maxima over R and over S; else [.., G, R]


def _num_per_block(sizes: tuple[int, int, int], max_pairs: int) -> tuple[int, int, int]:
    """Return how many groups, probe and gallery maps make a block: as square as the sizes allow, at least 1 each."""
    num_groups, num_probe, num_gallery = sizes
    side = isqrt(max_pairs)
    side -= next((side % step for step in _EVEN_SIDES if step <= side), 0)
    gallery = min(num_gallery, side)
    probe = min(num_probe, side if gallery == side else max_pairs // gallery)
    if probe < side:
        gallery = min(num_gallery, max_pairs // probe)
    return min(num_groups, max_pairs // (probe * gallery)), probe, gallery


def _max_numbers(features: Tensor, block_bytes: int | None) -> int:
    if block_bytes is None:
        block_bytes = CPU_BLOCK_BYTES if features.device.type == "cpu" else ACCELERATOR_BLOCK_BYTES
    return block_bytes // max(4, features.element_size())  # half precision accumulates in float32


def choose_block(probe: Tensor, gallery: Tensor, block_bytes: int | None) -> Block:
    """Return the block for non-empty features [L, P, S, C] and [L, G, R, C]; the same object is cut into squares."""
    max_numbers = _max_numbers(probe, block_bytes)
    (num_groups, num_probe, num_cells), (num_gallery, num_others) = probe.shape[:3], gallery.shape[1:3]
    few = min(num_probe, -(-_FEW_ROWS // num_cells))
    most_cells = max_numbers // (num_cells * few * _LANES)
    if gallery is not probe and num_gallery >= _LANES and most_cells > 0:
        num_parts = -(-num_others // most_cells)
        cells = -(-num_others // num_parts)
        pairs = max_numbers // (num_cells * cells)
        strips = max(1, min(num_gallery, isqrt(pairs)) // _LANES)
        probes = min(num_probe, pairs // (strips * _LANES))
        strips = min(num_gallery, pairs // probes) // _LANES
        return Block(min(num_groups, pairs // (probes * strips * _LANES)), probes, strips * _LANES, cells, True)
    pairs = max(1, max_numbers // (num_cells * num_others))
    return Block(*_num_per_block((num_groups, num_probe, num_gallery), pairs), num_others, False)


def is_better_exchanged(probe: Tensor, gallery: Tensor) -> bool:
    """Return whether the probe maps rather than the gallery's are enough to be neighbours in a block."""
    return gallery.shape[1] < _LANES <= probe.shape[1]


def tiles(looking: Tensor, looked_at: Tensor, block_bytes: int | None) -> Iterator[Tile]:
    """Yield tiles of at most a block's correlations that cover all pairs of maps."""
    sizes = (looking.shape[0], looking.shape[1], looked_at.shape[1])
    if 0 in sizes:
        return
    pair_numbers = looking.shape[2] * looked_at.shape[2]
    steps = _num_per_block(sizes, max(1, _max_numbers(looking, block_bytes) // pair_numbers))
    starts = product(*(range(0, size, step) for size, step in zip(sizes, steps, strict=True)))
    for group, probe, gallery in starts:
        yield slice(group, group + steps[0]), slice(probe, probe + steps[1]), slice(gallery, gallery + steps[2])


def unmatched(looking: Maps, looked_at: Maps) -> Tensor | None:
    """Return where [L, A, K, B] a cell has no match: it is hidden, or it looks at a map without a visible cell."""
    if looking.hidden is None or looked_at.hidden is None:
        return None
    return looking.hidden[..., None] | looked_at.hidden.all(dim=2)[:, None, None, :]


def visible_cells(hidden: Tensor) -> Tensor:
    """Return [L, A, K] for every cell itself, or for a hidden one the first visible cell of its map.

    With their features in the place of theirs hidden cells change no maximum, and -inf need not be written into the
    correlations. Cells of a map without a visible one get some cell of it.
    """
    cell = torch.arange(hidden.shape[2], device=hidden.device)
    return torch.where(hidden, hidden.byte().argmin(dim=2, keepdim=True), cell)
