"""Tensor functions of several leaves: precision, unit maps, and what all ranks have side by side."""

from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, distributed
from torch.autograd.function import once_differentiable

T = TypeVar("T")


def at_least_float32(values: Tensor) -> Tensor:
    """Return the values in float32; those in float64 as they are, the same tensor."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def unit_map(feature_map: Tensor) -> Tensor:
    """Return the map with every cell's feature at unit length, at least float32 [B, C, h, w]; zero stays zero."""
    return F.normalize(at_least_float32(feature_map), dim=1)


# ---------------------------------------------------------------- ranks: all of them must call these together


def is_distributed() -> bool:
    """Return whether this process is a rank in a process group."""
    return distributed.is_available() and distributed.is_initialized()


def own_rank() -> int:
    """Return the number of this process among the ranks; 0 without a process group."""
    return distributed.get_rank() if is_distributed() else 0


def world_size() -> int:
    """Return the number of ranks; 1 without a process group."""
    return distributed.get_world_size() if is_distributed() else 1


def gather_objects(mine: T) -> list[T]:
    """Return what every rank brings, by rank; anything that can be pickled."""
    by_rank: list[T] = [mine] * world_size()
    if is_distributed():
        distributed.all_gather_object(by_rank, mine)
    return by_rank


def gather(values: Tensor) -> Tensor:
    """Return the rows of all ranks, [num_ranks * B, ...], rank after rank, without a gradient; B is equal on all."""
    num_ranks = world_size()
    if num_ranks == 1:
        return values.detach()
    values = values.detach().contiguous()
    rows = values.new_empty(num_ranks * values.shape[0], *values.shape[1:])
    distributed.all_gather(list(rows.chunk(num_ranks)), values)
    return rows


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, gradient_scale: float) -> Tensor:
        ctx.gradient_scale = gradient_scale
        return gather(values)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        num_ranks = world_size()
        if num_ranks == 1:
            return grad * ctx.gradient_scale, None
        parts = list(grad.contiguous().chunk(num_ranks))
        own = torch.empty_like(parts[0])
        distributed.reduce_scatter(own, parts)
        return own.mul_(ctx.gradient_scale), None


def gather_with_gradient(values: Tensor, gradient_scale: float = 1.0) -> Tensor:
    """Return the rows of all ranks, as `gather` does, differentiable.

    The gradient of a rank's rows is the sum over the ranks of what each has for them, times `gradient_scale`. DDP
    averages over the ranks: a loss of which each rank has its own, their mean being meant, wants a scale of 1; one of
    which every rank has the whole value but its own part of the gradient wants the number of ranks.
    """
    rows: Tensor = _Gather.apply(values, gradient_scale)
    return rows
