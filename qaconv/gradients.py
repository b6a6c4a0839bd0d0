"""Gradient of the best matches: S + R of a pair's S * R correlations take part.

Legend of the shape suffixes: L groups (matched independently of each other), P probe maps, G gallery maps, S probe
cells, R gallery cells, C channels. A direction has A maps that look, K cells, and B maps that are looked at.
"""

# ruff: noqa: N803  (shape suffixes are capitals)

import torch
import torch.nn.functional as F
from torch import Tensor

from qaconv.blocks import Maps, tiles, unmatched


def _gradient_of_looking(weight: Tensor, row: Tensor, looked_at: Tensor) -> Tensor:
    """Sum for every looking cell the features that it matched: [cells, b] weights and rows, [rows, C] -> [cells, C]."""
    return F.embedding_bag(row, looked_at, per_sample_weights=weight, mode="sum")


def _gradient_of_looked_at(weight: Tensor, row: Tensor, looking: Tensor, num_rows: int) -> Tensor:
    """Sum for every row looked at the features of the cells that matched it: [cells, b] twice, [cells, C] -> [rows, C].

    A stable sort by matched row makes sums over contiguous entries of the scatter: no atomics, one fixed order.
    """
    sorted_row, entry = torch.sort(row.flatten(), stable=True)
    offsets = torch.searchsorted(sorted_row, torch.arange(num_rows, device=row.device))
    cell = entry.div(row.shape[1], rounding_mode="floor")
    return F.embedding_bag(cell, looking, offsets, per_sample_weights=weight.flatten()[entry], mode="sum")


def add_gradients(looking: Maps, looked_at: Maps, grad_LAKB: Tensor, cell_LAKB: Tensor, block: int | None) -> None:
    """Add one direction's gradient, 2 * A * K * B weighted features, to the gradients of both its sides."""
    without_match = unmatched(looking, looked_at)
    num_cells = looked_at.features.shape[2]
    for groups, near, far in tiles(looking.features, looked_at.features, block):
        part = (groups, near, slice(None), far)
        weight = grad_LAKB[part] if without_match is None else grad_LAKB[part].masked_fill(without_match[part], 0)
        cell = cell_LAKB[part]
        num_groups, num_looked_at = cell.shape[0], cell.shape[3]
        first_row = torch.arange(0, num_groups * num_looked_at * num_cells, num_cells, device=cell.device)
        row = (cell + first_row.view(num_groups, 1, 1, num_looked_at)).view(-1, num_looked_at)
        weight = weight.reshape(row.shape)
        near_features, far_features = looking.features[groups, near], looked_at.features[groups, far]
        if looking.grad is not None:
            grad = _gradient_of_looking(weight, row, far_features.reshape(-1, far_features.shape[-1]))
            looking.grad[groups, near] += grad.view_as(near_features)
        if looked_at.grad is not None:
            near_rows = near_features.reshape(-1, near_features.shape[-1])
            grad = _gradient_of_looked_at(weight, row, near_rows, far_features.shape[:3].numel())
            looked_at.grad[groups, far] += grad.view_as(far_features)
