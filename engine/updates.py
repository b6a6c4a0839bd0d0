"""What happens between a gradient and the update: averaged where it is sparse, measured, clipped, or voided."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor
from torch.amp import GradScaler
from torch.optim import Optimizer

from ops import is_distributed


def gradient_norms(parameters: Sequence[Tensor]) -> Tensor:
    """Return the L2 norm of each parameter's gradient, [N]; sparse gradients must be coalesced.

    The norm of them is the norm of all gradients together.
    """
    return torch.stack(torch._foreach_norm([_gradient(parameter) for parameter in parameters]))


def void(optimizer: Optimizer, refused: Tensor, scaler: GradScaler | None) -> None:
    """Let the next step of an optimiser change nothing, neither weights nor momentum, where `refused` is 1.

    Args:
        optimizer: a fused one, unless the weights are on the CPU.
        refused: float32 scalar on the device, 0 or 1; the host reads it for an optimiser that is not fused alone.
        scaler: the loss scaler, which has unscaled the gradients; it looks for overflows itself.
    """
    if scaler is not None:
        for found in scaler._found_inf_per_device(optimizer).values():
            found.clamp_(min=refused)  # the kernels look for 1, not for more
    elif optimizer.defaults["fused"]:
        optimizer.found_inf = refused  # type: ignore[attr-defined]  # what a loss scaler would set
    elif refused:
        optimizer.zero_grad()


def clip_gradients(parameters: Sequence[Tensor], max_norm: float, norm: Tensor) -> None:
    """Scale the gradients, whose `gradient_norm` is `norm`, down to a norm of at most max_norm."""
    factor = (max_norm / (norm + 1e-6)).clamp(max=1.0)
    for parameter in parameters:
        _gradient(parameter).mul_(factor)


def mean_over_ranks(gradient: Tensor) -> Tensor:
    """Return the mean of a sparse gradient over the ranks, coalesced, the same on each of them.

    It is gathered because NCCL cannot reduce sparse tensors.
    """
    gradient = gradient.coalesce()
    if not is_distributed():
        return gradient
    from torchmetrics.utilities.distributed import gather_all_tensors  # here: one rank works without it

    rows = torch.cat(gather_all_tensors(gradient.indices()[0]))
    values = torch.cat(gather_all_tensors(gradient.values())) / dist.get_world_size()
    total = torch.sparse_coo_tensor(rows[None], values, gradient.shape, check_invariants=False)
    return total.coalesce()


def _gradient(parameter: Tensor) -> Tensor:
    """Return the numbers of a gradient, which must be there."""
    gradient = parameter.grad
    assert gradient is not None
    return gradient.values() if gradient.is_sparse else gradient
