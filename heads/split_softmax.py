"""Cross entropy over classes that are split over ranks.

Every rank has the samples of all ranks and the classes of its own, computes its block of the logits, and exchanges
three numbers a sample. All ranks must call these functions together, with equally many samples each. Gradients are
those of one loss, the mean over the global batch: each rank must weight it alike.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, distributed
from torch.autograd.function import once_differentiable

from ops import world_size

Margin = Callable[[Tensor], Tensor]


class Targets(NamedTuple):
    """Where each sample's true class is, for a rank."""

    owned: Tensor  # [B] bool: among the columns of this rank
    column: Tensor  # [B, 1] int64: which of them; any where it is not owned


class Logits(NamedTuple):
    """How a cosine becomes a logit."""

    margin: Margin  # clamped cosines [B, 1] of the true classes -> the same with the margin, row by row
    scale: float
    limit: float  # cosines are clamped to [-limit, limit]


class _SplitCrossEntropy(torch.autograd.Function):
    """One block of the logits and its exponentials in the same memory; the block's gradient is the only other one."""

    @staticmethod
    def forward(ctx: Any, embeddings: Tensor, unit: Tensor, targets: Targets, logits: Logits) -> tuple[Tensor, Tensor]:
        owned, column = targets
        block = embeddings @ unit.T
        inside = block.abs() <= logits.limit
        block.clamp_(-logits.limit, logits.limit)
        target, slope = _target_and_slope(block.gather(1, column), logits.margin)
        block.scatter_(1, column, torch.where(owned[:, None], target, block.gather(1, column))).mul_(logits.scale)
        own = target[:, 0] * logits.scale
        greatest = _reduced(block.amax(1), distributed.ReduceOp.MAX)
        block.sub_(greatest[:, None]).exp_()
        sums = torch.stack([block.sum(1), own.where(owned, 0)])
        total, truth = _reduced(sums, distributed.ReduceOp.SUM)
        ctx.save_for_backward(embeddings, unit, block, inside, total, slope, owned, column)
        ctx.scale = logits.scale
        correct = truth >= greatest
        ctx.mark_non_differentiable(correct)
        return total.log() + (greatest - truth), correct

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_loss: Tensor, _: Tensor) -> tuple[Tensor, Tensor, None, None]:
        embeddings, unit, exponentials, inside, total, slope, owned, column = ctx.saved_tensors
        grad = exponentials * (grad_loss / total)[:, None]
        of_column = grad.gather(1, column)
        of_target = (of_column - grad_loss[:, None]) * slope
        grad.scatter_(1, column, torch.where(owned[:, None], of_target, of_column))
        grad.mul_(inside).mul_(ctx.scale)
        return grad @ unit, grad.T @ embeddings, None, None


def split_cross_entropy(embeddings: Tensor, unit: Tensor, targets: Targets, logits: Logits) -> tuple[Tensor, Tensor]:
    """Return each sample's cross entropy over the classes of all ranks, and whether its true class came first.

    Args:
        embeddings: [B, D] floating, unit length, those of all ranks.
        unit: [k, D], the class weights of this rank at unit length; k >= 1 may differ between the ranks.
        targets: each sample's true class; one rank owns it.
        logits: how a cosine becomes a logit.
    Returns:
        loss [B], the same on every rank; its gradients are those of this rank's classes. correct [B] bool.
    """
    loss, correct = _SplitCrossEntropy.apply(embeddings, unit, targets, logits)
    return loss, correct


def _target_and_slope(cosine: Tensor, margin: Margin) -> tuple[Tensor, Tensor]:
    """Return the cosines with the margin and its derivative: taken here, it needs no block of its own later."""
    with torch.enable_grad():
        cosine = cosine.detach().requires_grad_()
        target = margin(cosine)
        (slope,) = torch.autograd.grad(target.sum(), cosine)
    return target.detach(), slope


def _reduced(values: Tensor, operation: distributed.ReduceOp.RedOpType) -> Tensor:
    if world_size() > 1:
        distributed.all_reduce(values, operation)
    return values
