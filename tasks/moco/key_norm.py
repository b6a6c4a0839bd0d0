"""In what company keys are normalized: batch norm must not tell a query which keys were encoded beside its own.

A query and its key that are normalized with the statistics of the same images carry them as a signature, and telling
signatures apart is easier than telling faces apart (He et al., arXiv:1911.05722, Sec. 3.3, "Shuffling BN").
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional

from ops import gather, is_distributed, own_rank, world_size

_LEAST = 2  # images that a batch norm can normalize


@torch.no_grad()
def encode_keys(
    encode: Callable[[Tensor], Tensor], images: Tensor, how: str, groups: int, seed: tuple[int, ...]
) -> Tensor:
    """Return the keys of this rank's images, encoded in other company than their queries were.

    Args:
        encode: images [n, ...] -> keys [n, dim].
        images: [B, ...], as many on every rank.
        how: shuffle: every rank encodes a random part of all ranks' images; on one rank as split. split: each rank
            encodes its own images in groups of a random order. sync: all at once, for an encoder whose norms take the
            statistics of all ranks (`sync_norms`).
        groups: of split; fewer where a group would hold one image.
        seed: the random orders follow it; the same on all ranks.
    Returns:
        [B, dim] without a gradient, in the order of the images.
    """
    if how == "sync":
        return encode(images)
    ranks, count = world_size(), len(images)
    if how == "split" or ranks == 1:
        order = _permutation(count, seed, images.device)
        parts = order.tensor_split(max(1, min(groups, count // _LEAST)))
        return torch.cat([encode(images[part]) for part in parts])[order.argsort()]
    own = slice(own_rank() * count, (own_rank() + 1) * count)
    order = _permutation(ranks * count, seed, images.device)
    keys = gather(encode(gather(images)[order[own]]))
    return keys[order.argsort()[own]]


def _permutation(count: int, seed: tuple[int, ...], device: torch.device) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).permutation(count)).to(device)


class SyncedNorm(nn.SyncBatchNorm):
    """Batch norm with the moments of all ranks' images, without a gradient: for keys, on any device."""

    def forward(self, input: Tensor) -> Tensor:
        """Return the normalized values, in their dtype; in training the running statistics follow."""
        if not self.training:
            return functional.batch_norm(
                input, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
            )
        axes = [axis for axis in range(input.ndim) if axis != 1]
        values = input.to(torch.promote_types(input.dtype, torch.float32))
        count = values.numel() // values.shape[1] * world_size()
        mean = _sum_over_ranks(values.sum(axes)) / count
        centered = values - mean.view(1, -1, *[1] * (values.ndim - 2))
        variance = _sum_over_ranks(centered.square().sum(axes)) / count
        assert self.running_mean is not None and self.running_var is not None and self.momentum is not None
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
        unbiased = variance * count / max(1, count - 1)
        self.running_var.lerp_(unbiased.to(self.running_var.dtype), self.momentum)
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        return functional.batch_norm(values, mean, variance, self.weight, self.bias, eps=self.eps).to(input.dtype)


def _sum_over_ranks(values: Tensor) -> Tensor:
    if is_distributed():
        dist.all_reduce(values)
    return values


def sync_norms(module: nn.Module) -> None:
    """Replace the batch norms within a module by `SyncedNorm`; names and numbers stay."""
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm1d | nn.BatchNorm2d):
            synced = SyncedNorm(child.num_features, child.eps, child.momentum, child.affine)
            synced.load_state_dict(child.state_dict())
            setattr(module, name, synced.to(child.running_mean).requires_grad_(False))
        else:
            sync_norms(child)
