"""Best matches between the cells of feature maps, with nothing of size [P, G, S, R] beyond one bounded block.

Legend of the shape suffixes: L groups (matched independently of each other), P probe maps, G gallery maps, S probe
cells, R gallery cells, C channels. A direction has A maps that look, K cells, and B maps that are looked at.
Groups let one operator serve a score matrix (L = 1), a list of pairs (P = G = 1) and a short list per probe (P = 1).
"""

# ruff: noqa: N806  (shape suffixes are capitals)

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from qaconv.blocks import Maps, Tile, tiles, unmatched
from qaconv.gradients import add_gradients


class Maxima(NamedTuple):
    """The best match of every cell, in both directions.

    A cell without a match (it is hidden, or looks at a map with no visible cell) has value 0 and index 0, and the
    gradient that comes back for it is ignored. When a set is matched against itself both directions are equal, and
    are the same tensors.
    """

    probe: Tensor  # [L, P, S, G] max over R
    probe_cell: Tensor  # [L, P, S, G] the first R that reaches it; uint8 up to 256 cells, else int16
    gallery: Tensor  # [L, G, R, P] max over S
    gallery_cell: Tensor  # [L, G, R, P] the first S that reaches it


def _correlate(probe: Maps, gallery: Maps, tile: Tile, buffer: Tensor) -> Tensor:
    """Return the tile's correlations [l, p, S, g, R], hidden cells at -inf, in memory kept by the (empty) buffer."""
    groups, probes, galleries = tile
    probe_LPSC, gallery_LGRC = probe.features[groups, probes], gallery.features[groups, galleries]
    rows_LNC, columns_LMC = probe_LPSC.flatten(1, 2), gallery_LGRC.flatten(1, 2)
    buffer.resize_(rows_LNC.shape[0], rows_LNC.shape[1], columns_LMC.shape[1])
    torch.bmm(rows_LNC, columns_LMC.transpose(1, 2), out=buffer)
    sim_LPSGR = buffer.view(*probe_LPSC.shape[:3], *gallery_LGRC.shape[1:3])
    if probe.hidden is not None and gallery.hidden is not None:
        sim_LPSGR.masked_fill_(probe.hidden[groups, probes, :, None, None], -torch.inf)
        sim_LPSGR.masked_fill_(gallery.hidden[groups, None, None, galleries], -torch.inf)
    return sim_LPSGR


def _empty_direction(looking: Maps, looked_at: Maps) -> tuple[Tensor, Tensor]:
    shape = (*looking.features.shape[:3], looked_at.features.shape[1])
    index_dtype = torch.uint8 if looked_at.features.shape[2] <= 256 else torch.int16
    return looking.features.new_empty(shape), looking.features.new_empty(shape, dtype=index_dtype)


def _forget_unmatched(best: Tensor, cell: Tensor, without_match: Tensor | None) -> None:
    if without_match is not None:
        best.masked_fill_(without_match, 0)
        cell.masked_fill_(without_match, 0)


def _find_maxima(probe: Maps, gallery: Maps, block_bytes: int | None) -> Maxima:
    is_self = gallery is probe
    best_LPSG, cell_LPSG = _empty_direction(probe, gallery)
    best_LGRP, cell_LGRP = (best_LPSG, cell_LPSG) if is_self else _empty_direction(gallery, probe)
    buffer = probe.features.new_empty(0)
    for tile in tiles(probe.features, gallery.features, block_bytes):
        groups, probes, galleries = tile
        if is_self and galleries.start < probes.start:
            continue  # the transpose of a tile above the diagonal, which wrote both directions
        sim_LPSGR = _correlate(probe, gallery, tile, buffer)
        best, cell = sim_LPSGR.max(dim=4)
        best_LPSG[groups, probes, :, galleries] = best
        cell_LPSG[groups, probes, :, galleries] = cell
        if not is_self or galleries.start > probes.start:
            best, cell = sim_LPSGR.max(dim=2)
            best_LGRP[groups, galleries, :, probes] = best.permute(0, 2, 3, 1)
            cell_LGRP[groups, galleries, :, probes] = cell.permute(0, 2, 3, 1)
    _forget_unmatched(best_LPSG, cell_LPSG, unmatched(probe, gallery))
    if not is_self:
        _forget_unmatched(best_LGRP, cell_LGRP, unmatched(gallery, probe))
    return Maxima(best_LPSG, cell_LPSG, best_LGRP, cell_LGRP)


class _BestMatches(torch.autograd.Function):
    """Outputs as `Maxima`; only the first direction when there is no gallery (the probe set against itself)."""

    @staticmethod
    def forward(
        ctx: Any,
        block_bytes: int | None,
        probe: Tensor,
        probe_hidden: Tensor | None,
        gallery: Tensor | None,
        gallery_hidden: Tensor | None,
    ) -> tuple[Tensor, ...]:
        probes = Maps(probe, probe_hidden)
        galleries = probes if gallery is None else Maps(gallery, gallery_hidden)
        maxima = _find_maxima(probes, galleries, block_bytes)
        ctx.mark_non_differentiable(maxima.probe_cell, maxima.gallery_cell)
        ctx.set_materialize_grads(False)
        ctx.block_bytes = block_bytes
        ctx.save_for_backward(probe, probe_hidden, gallery, gallery_hidden, maxima.probe_cell, maxima.gallery_cell)
        return maxima[:2] if gallery is None else tuple(maxima)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        probe, probe_hidden, gallery, gallery_hidden, probe_cell, gallery_cell = ctx.saved_tensors
        probes = Maps(probe, probe_hidden, torch.zeros_like(probe) if ctx.needs_input_grad[1] else None)
        galleries = probes
        if gallery is not None:
            galleries = Maps(gallery, gallery_hidden, torch.zeros_like(gallery) if ctx.needs_input_grad[3] else None)
        if grads[0] is not None:
            add_gradients(probes, galleries, grads[0], probe_cell, ctx.block_bytes)
        if gallery is not None and grads[2] is not None:
            add_gradients(galleries, probes, grads[2], gallery_cell, ctx.block_bytes)
        return None, probes.grad, None, galleries.grad if gallery is not None else None, None


def best_matches(probe: Maps, gallery: Maps, block_bytes: int | None = None) -> Maxima:
    """Return, for every cell and every map of the other side, the largest dot product and where it is reached.

    The numbers do not depend on `block_bytes` beyond rounding. Of cells that tie the first is taken, by the gradient
    too. Memory beyond the result: one block of correlations at a time, and in the backward pass as much again.

    Args:
        probe: features [L, P, S, C] contiguous, float32 or float64; hidden [L, P, S] bool on both sides or on neither.
        gallery: features [L, G, R, C], likewise. The same object as `probe` means the set against itself: the
            correlations of (g, p) are those of (p, g) transposed, and half the work is saved.
        block_bytes: size of a block of correlations; None: CPU_BLOCK_BYTES or ACCELERATOR_BLOCK_BYTES by device.
    """
    if gallery is probe:
        best, cell = _BestMatches.apply(block_bytes, probe.features, probe.hidden, None, None)
        return Maxima(best, cell, best, cell)
    return Maxima(*_BestMatches.apply(block_bytes, probe.features, probe.hidden, gallery.features, gallery.hidden))
