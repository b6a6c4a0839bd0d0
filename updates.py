"""What happens between a gradient and the update: averaged where it is sparse, measured, clipped, or refused."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torchmetrics.utilities.distributed import gather_all_tensors

logger = logging.getLogger(__name__)


class NonFiniteError(RuntimeError):
    """A loss term or a gradient is NaN or infinite and the run is told to stop."""


class UpdateGuard:
    """Refuses updates that a NaN or an infinity took part in: the run stops, or the step is skipped and counted.

    A step is one update of the weights, of however many accumulated batches, and all ranks skip it together: its
    gradients are dropped, so that neither weights nor momentum nor running statistics take anything in.

    Args:
        on_nonfinite: "stop" or "skip".
    Attributes:
        skipped: updates refused so far.
    """

    def __init__(self, on_nonfinite: str) -> None:
        self.skipped = 0
        self._stops = on_nonfinite == "stop"
        self._statistics: list[tuple[Tensor, Tensor]] = []
        self._spoilt: list[tuple[Tensor, Tensor]] = []
        self._bad_loss: str | None = None

    def watch(self, module: nn.Module) -> None:
        """Keep the running statistics as they are before a forward pass, which may put a NaN into them for ever."""
        if not self._stops:
            self._put_back()
            self._statistics = [(b, b.detach().clone()) for b in module.buffers() if b.is_floating_point()]

    def accepts_loss(self, total: Tensor, terms: Mapping[str, Tensor], step: int) -> bool:
        """Return whether the loss is finite on every rank; else refuse the next update.

        Raises:
            NonFiniteError: instead, if the run is told to stop.
        """
        finite = torch.isfinite(total.detach()).float()
        if dist.is_available() and dist.is_initialized():  # ranks must skip together, or their weights part
            dist.all_reduce(finite, op=dist.ReduceOp.MIN)
        if finite:
            return True
        bad = [name for name, term in terms.items() if not torch.isfinite(term)]
        elsewhere = "the loss on another rank" if torch.isfinite(total) else "the sum of the loss terms"
        self._bad_loss = f"loss term {', '.join(bad)}" if bad else elsewhere
        self._spoilt = self._statistics  # put back after the backward pass, which may need them as they are
        if self._stops:
            self._refuse(self._bad_loss, step)
        return False

    def accepts_gradient(self, parameters: Mapping[str, Tensor], norm: Tensor, step: int, scaled: bool) -> bool:
        """Return whether the update may be made; else drop all gradients.

        Args:
            parameters: those with a gradient, by name.
            norm: `gradient_norm` of them.
            step: number of the update, for the message.
            scaled: whether a loss scaler is at work (fp16): it skips overflows itself, as part of its search for a
                scale, and they are neither counted nor a reason to stop.
        Raises:
            NonFiniteError: if the gradient is not finite and the run is told to stop.
        """
        self._put_back()
        if self._bad_loss is None and torch.isfinite(norm):
            return True
        if self._bad_loss or not scaled:
            self._refuse(self._bad_loss or f"gradient of {_first_bad(parameters)}", step)
        self._bad_loss = None
        for parameter in parameters.values():
            parameter.grad = None
        return False

    def _put_back(self) -> None:
        for buffer, before in self._spoilt:
            buffer.copy_(before)
        self._spoilt = []

    def _refuse(self, what: str, step: int) -> None:
        message = f"step {step}: {what} is not finite"
        if self._stops:
            raise NonFiniteError(f"{message}; lower --lr, use --warmup_steps, or --on_nonfinite skip")
        self.skipped += 1
        logger.warning("%s; update skipped (%d so far)", message, self.skipped)


def _first_bad(parameters: Mapping[str, Tensor]) -> str:
    bad = (name for name, parameter in parameters.items() if not torch.isfinite(_gradient(parameter)).all())
    return next(bad, "all parameters together")  # each is finite, their norm is not


def gradient_norm(parameters: Sequence[Tensor]) -> Tensor:
    """Return the L2 norm of the gradients of all parameters together; sparse ones must be coalesced."""
    return nn.utils.get_total_norm([_gradient(parameter) for parameter in parameters])


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
    if not (dist.is_available() and dist.is_initialized()):
        return gradient
    rows = torch.cat(gather_all_tensors(gradient.indices()[0]))
    values = torch.cat(gather_all_tensors(gradient.values())) / dist.get_world_size()
    total = torch.sparse_coo_tensor(rows[None], values, gradient.shape, check_invariants=False)
    return total.coalesce()


def _gradient(parameter: Tensor) -> Tensor:
    """Return the numbers of a gradient, which must be there."""
    gradient = parameter.grad
    assert gradient is not None
    return gradient.values() if gradient.is_sparse else gradient
