"""Forward pass of the best matches: correlations block by block, both maxima of each while the cache holds it.

Legend of the shape suffixes: L groups (matched independently of each other), P probe maps, G gallery maps, S probe
cells, R gallery cells, C channels, N and M rows and columns of a product. A direction has A maps that look, K cells,
and B maps that are looked at.
"""

# ruff: noqa: N803, N806  (shape suffixes are capitals)

from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor

from qaconv.blocks import Block, Maps, choose_block, is_better_exchanged, unmatched, visible_cells


class Direction(NamedTuple):
    """The best match of every cell of one side."""

    best: Tensor  # [L, A, K, B] in float32, or float64 for float64 maps
    cell: Tensor | None  # [L, A, K, B] the first cell that reaches it; None: not asked for


class _Side(NamedTuple):
    features: Tensor  # [L, A, K, C], hidden cells replaced by visible ones
    rank: Tensor | None  # [L, A, K] as floating numbers, K - 1 for the first cell, 0 for the last; None: no indices


def empty_direction(looking: Tensor, looked_at: Tensor, with_cells: bool) -> Direction:
    """Return the direction of features [L, A, K, C] towards [L, B, K', C], its numbers yet to be written."""
    shape = (*looking.shape[:3], looked_at.shape[1])
    best = looking.new_empty(shape, dtype=torch.promote_types(looking.dtype, torch.float32))
    index_dtype = torch.uint8 if looked_at.shape[2] <= 256 else torch.int16
    return Direction(best, looking.new_empty(shape, dtype=index_dtype) if with_cells else None)


def _side(maps: Maps, with_cells: bool) -> _Side:
    features, num_cells = maps.features, maps.features.shape[2]
    if maps.hidden is None and not with_cells:
        return _Side(features, None)
    cell = torch.arange(num_cells, device=features.device).expand(features.shape[:3])
    if maps.hidden is not None:
        cell = visible_cells(maps.hidden)
        first_row = torch.arange(0, cell.numel(), num_cells, device=cell.device).view(*cell.shape[:2], 1)
        features = features.flatten(0, 2).index_select(0, (cell + first_row).flatten()).view(features.shape)
    rank_dtype = torch.promote_types(features.dtype, torch.float32)
    return _Side(features, (num_cells - 1 - cell).to(rank_dtype) if with_cells else None)


class _Buffers:
    """Memory of two blocks (three in half precision), kept from one block to the next."""

    def __init__(self, features: Tensor) -> None:
        self._product = features.new_empty(0)
        self._wide = features.new_empty(0, dtype=torch.promote_types(features.dtype, torch.float32))
        self._marks = torch.empty_like(self._wide)

    def multiply(self, rows_LNC: Tensor, columns_LMC: Tensor) -> Tensor:
        """Return the products [L, N, M]; half precision is rounded once, after the sums, and given as float32."""
        product_LNM = self._product.resize_(rows_LNC.shape[0], rows_LNC.shape[1], columns_LMC.shape[1])
        if len(rows_LNC) == 1:  # as a batch of one, bfloat16 is slow
            torch.mm(rows_LNC[0], columns_LMC[0].T, out=product_LNM[0])
        else:
            torch.bmm(rows_LNC, columns_LMC.transpose(1, 2), out=product_LNM)
        if product_LNM.dtype == self._wide.dtype:
            return product_LNM
        return self._wide.resize_(product_LNM.shape).copy_(product_LNM)

    def marks(self, sim: Tensor) -> Tensor:
        """Return memory like a block."""
        return self._marks.resize_(sim.shape)


def maximum_by_marks(sim: Tensor, dim: int, rank: Tensor, marks: Tensor) -> tuple[Tensor, Tensor]:
    """Return the maxima over dim and the rank of the first cell that reaches each, by vectorized steps alone.

    Args:
        sim: floating.
        dim: of sim.
        rank: broadcasts to sim, falls along dim.
        marks: memory like sim; may be sim, which is lost then.
    """
    best = sim.amax(dim)
    torch.eq(sim, best.unsqueeze(dim), out=marks)
    return best, marks.mul_(rank).amax(dim)


def maximum_by_index(sim: Tensor, dim: int, rank: Tensor) -> tuple[Tensor, Tensor]:
    """Return the same by a maximum with indices: fewer passes over memory, but one number at a time on the CPU."""
    best, cell = sim.max(dim)
    return best, rank.expand_as(sim).gather(dim, cell.unsqueeze(dim)).squeeze(dim)


def _maximum(sim: Tensor, dim: int, rank: Tensor | None, marks: Tensor | None) -> tuple[Tensor, Tensor | None]:
    if rank is None or marks is None:
        return sim.amax(dim), None
    if sim.device.type == "cpu" and sim.stride(dim) > 1:
        return maximum_by_marks(sim, dim, rank, marks)
    return maximum_by_index(sim, dim, rank)


class _Columns(NamedTuple):
    """Some cells of some gallery maps, laid out [R, G] or [G, R] for a block's product and its maxima."""

    features: Tensor  # [L, R * G, C] or [L, G * R, C]
    rank: Tensor | None  # [L, 1, 1, R, G] or [L, 1, 1, G, R]
    layout: tuple[int, int]  # the sizes of R and G, or of G and R
    maps_are_neighbours: bool

    @property
    def cell_dim(self) -> int:
        """Dimension R of the correlations."""
        return 3 if self.maps_are_neighbours else 4

    def correlate(self, probe_LPSC: Tensor, buffers: _Buffers) -> Tensor:
        """Return the correlations [L, P, S, R, G] or [L, P, S, G, R], in memory that the next call reuses."""
        sim_LNM = buffers.multiply(probe_LPSC.flatten(1, 2), self.features)
        return sim_LNM.view(*probe_LPSC.shape[:3], *self.layout)

    def to_gallery_side(self, values: Tensor) -> Tensor:
        """Return maxima over S as the gallery's direction has them."""
        return values.permute(0, 3, 2, 1) if self.maps_are_neighbours else values.permute(0, 2, 3, 1)


def _lay_out(gallery: _Side, part: tuple[slice, slice, slice], maps_are_neighbours: bool) -> _Columns:
    features, rank = gallery.features[part], None if gallery.rank is None else gallery.rank[part]
    if maps_are_neighbours:
        features, rank = features.transpose(1, 2), None if rank is None else rank.transpose(1, 2)
    rank = None if rank is None else rank.contiguous()[:, None, None]
    return _Columns(features.flatten(1, 2), rank, (features.shape[1], features.shape[2]), maps_are_neighbours)


def _store(into: Direction, part: tuple[slice, ...], best: Tensor, rank: Tensor | None, is_first: bool) -> None:
    """Write the maxima over some of the cells looked at; those over further cells where they are larger."""
    if into.cell is not None and rank is not None:
        known = into.cell[part]
        known.copy_(rank if is_first else torch.where(best > into.best[part], rank.to(known.dtype), known))
    into.best[part] = best if is_first else torch.maximum(best, into.best[part])


def _slices(total: int, step: int) -> list[slice]:
    return [slice(start, min(start + step, total)) for start in range(0, total, step)]


def _fill(there: Direction, back: Direction, probe: _Side, gallery: _Side, block: Block) -> None:
    """Write the maxima, and ranks for cells; a set is matched against itself if both directions are the same."""
    buffers = _Buffers(probe.features)
    (num_groups, num_probe), (num_gallery, num_cells) = probe.features.shape[:2], gallery.features.shape[1:3]
    outer = (_slices(num_groups, block.groups), _slices(num_gallery, block.galleries), _slices(num_cells, block.cells))
    for groups, galleries, cells in product(*outer):
        columns = _lay_out(gallery, (groups, galleries, cells), block.maps_are_neighbours)
        for probes in _slices(num_probe, block.probes):
            if back is there and galleries.start < probes.start:
                continue  # the transpose of a block above the diagonal, which wrote both directions
            sim = columns.correlate(probe.features[groups, probes], buffers)
            marks = None if columns.rank is None else buffers.marks(sim)
            best, rank = _maximum(sim, columns.cell_dim, columns.rank, marks)
            _store(there, (groups, probes, slice(None), galleries), best, rank, is_first=cells.start == 0)
            if back is not there or galleries.start > probes.start:
                rank = None if probe.rank is None else probe.rank[groups, probes, :, None, None]
                best, rank = _maximum(sim, 2, rank, marks=sim)
                rank = None if rank is None else columns.to_gallery_side(rank)
                _store(back, (groups, galleries, cells, probes), columns.to_gallery_side(best), rank, is_first=True)


def _finish(direction: Direction, looking: Maps, looked_at: Maps) -> None:
    without_match = unmatched(looking, looked_at)
    if direction.cell is not None:
        direction.cell.neg_().add_(looked_at.features.shape[2] - 1)
    for values in direction:
        if values is not None and without_match is not None:
            values.masked_fill_(without_match, 0)


def find_maxima(probe: Maps, gallery: Maps, with_cells: bool, block_bytes: int | None) -> tuple[Direction, Direction]:
    """Return the best matches of the probe's cells and of the gallery's; see `correlation.best_matches`."""
    if is_better_exchanged(probe.features, gallery.features):
        back, there = find_maxima(gallery, probe, with_cells, block_bytes)
        return there, back
    is_self = gallery is probe
    there = empty_direction(probe.features, gallery.features, with_cells)
    back = there if is_self else empty_direction(gallery.features, probe.features, with_cells)
    if there.best.numel() > 0:
        side = _side(probe, with_cells)
        other_side = side if is_self else _side(gallery, with_cells)
        _fill(there, back, side, other_side, choose_block(side.features, other_side.features, block_bytes))
    _finish(there, probe, gallery)
    if not is_self:
        _finish(back, gallery, probe)
    return there, back
