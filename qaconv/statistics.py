"""Batch statistics of the matcher's two single-channel batch norms, without copies of the values."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ops import gather, gather_with_gradient, is_distributed

_PART_SIZE = 2**20  # values that are centered at a time


class Moments(NamedTuple):
    """Mean and biased variance of so many values, all scalars."""

    mean: Tensor
    variance: Tensor
    num_values: Tensor  # float64, without gradient


class _MeanAndVariance(torch.autograd.Function):
    """(count, *values) -> (mean, variance) of all values but the `numel - count` ones that are 0 by agreement."""

    @staticmethod
    def forward(ctx: Any, count: Tensor, *values: Tensor) -> tuple[Tensor, Tensor]:
        dtype = values[0].dtype
        num_ignored = sum(value.numel() for value in values) - count
        divisor = count.clamp_min(1)
        mean = (sum(value.sum(dtype=torch.float64) for value in values) / divisor).to(dtype)
        squares = sum(
            (part - mean).square_().sum(dtype=torch.float64)
            for value in values
            for part in value.flatten(0, 1).split(max(1, _PART_SIZE // max(1, value.shape[2:].numel())))
        )
        variance = ((squares - num_ignored * mean.double().square()) / divisor).clamp_min(0).to(dtype)
        ctx.save_for_backward(mean, divisor, *values)
        return mean, variance

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_mean: Tensor, grad_variance: Tensor) -> tuple[Tensor | None, ...]:
        mean, divisor, *values = ctx.saved_tensors
        slope = (2 * grad_variance / divisor).to(mean.dtype)
        offset = (grad_mean / divisor).to(mean.dtype) - slope * mean
        return None, *((value * slope).add_(offset) for value in values)


def moments(values: tuple[Tensor, ...], count: Tensor, copies: int = 1) -> Moments:
    """Return the moments of the `count` values that are matches.

    Args:
        values: floating [L, A, K, B] tensors. The others (cells without a match) must be 0; the gradient
            they receive is meaningless and to be ignored by whoever made them 0.
        count: scalar float64 on the values' device; how many entries count.
        copies: how often the values stand for themselves (2 for a set against itself, whose directions are equal).
    """
    mean, variance = _MeanAndVariance.apply(count, *values)
    return Moments(mean, variance, count * copies)


def moments_of_ranks(own: Moments) -> Moments:
    """Return the moments of the values of all ranks together, differentiable; all ranks must call it together.

    Means and variances are merged, not sums of squares, which would cancel where the values hardly vary.
    """
    counts = gather(own.num_values[None])
    total = counts.sum()
    shares = counts / total.clamp_min(1)
    means, variances = gather_with_gradient(torch.stack([own.mean, own.variance])[None]).double().unbind(1)
    mean = (shares * means).sum()
    variance = (shares * (variances + (means - mean).square())).sum()
    return Moments(mean.to(own.mean.dtype), variance.to(own.variance.dtype), total)


@torch.no_grad()
def update_running_statistics(norms: list[tuple[nn.modules.batchnorm._BatchNorm, Moments]]) -> None:
    """Move running means and (unbiased) variances at the norms' momentum, by the values of all ranks together.

    Under torch.distributed every rank must call this, once per training forward: one all-reduce makes the ranks agree.
    A batch without a single value leaves the statistics where they are.
    """
    sums = torch.stack(
        [
            torch.stack(
                [m.num_values, m.num_values * m.mean, m.num_values * (m.variance.double() + m.mean.double().square())]
            )
            for _, m in norms
        ]
    )
    if is_distributed():
        torch.distributed.all_reduce(sums)
    for (norm, _), (count, total, total_of_squares) in zip(norms, sums, strict=True):
        mean = total / count.clamp_min(1)
        variance = (total_of_squares - count * mean.square()) / (count - 1).clamp_min(1)
        assert norm.momentum is not None and norm.running_mean is not None and norm.running_var is not None
        assert norm.num_batches_tracked is not None
        momentum = norm.momentum * (count > 0)
        for running, value in ((norm.running_mean, mean), (norm.running_var, variance)):
            running.add_((momentum * (value - running)).to(running.dtype))
        norm.num_batches_tracked.add_(1)
