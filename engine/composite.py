"""One optimizer made of several: a torch optimizer, and others for matrices of which a step touches some rows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.optim import Optimizer

from engine import internals
from engine.guard import Diagnosis, RunningMeans, UpdateGuard
from ops import at_least_float32, is_distributed


class RowOptimizer(Optimizer):
    """SGD of one matrix [N, D], of which the rows without a gradient stay as they are, weight decay included.

    In a `CompositeOptimizer` rate, momentum and weight decay are those that it hands on before each step.
    """

    def __init__(self, weight: nn.Parameter, lr: float = 0.0, momentum: float = 0.0, weight_decay: float = 0.0) -> None:
        super().__init__([weight], {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        self.weight = weight

    def reduce(self) -> None:
        """Make the gradient one that can be measured; all ranks must call it together."""
        raise NotImplementedError

    @torch.no_grad()
    def step(self, closure: Any = None, *, accepted: Tensor | None = None, number: int = 0) -> None:  # type: ignore[override]
        """Move the rows that have a gradient, and drop it.

        Args:
            closure: is not called.
            accepted: bool scalar on the device; where it is False nothing changes. None: True.
            number: of updates before this one.
        """
        gradient, self.weight.grad = self.weight.grad, None
        if gradient is not None:
            accepted = torch.ones((), dtype=torch.bool, device=gradient.device) if accepted is None else accepted
            self._move(gradient, accepted, number)

    def _move(self, gradient: Tensor, accepted: Tensor, number: int) -> None:
        raise NotImplementedError


class SparseSGD(RowOptimizer):
    """Plain SGD of a matrix that every rank has whole, with a sparse gradient on each. There is no momentum.

    NCCL cannot reduce a sparse gradient: it is averaged here, and DDP must ignore the matrix.

    Args:
        weight: [N, D] float32 or float16 with a sparse float32 gradient, or with none; or both float64.
        seed: of what float16 is rounded by, with the number of the step: the same on all ranks.
    """

    def __init__(self, weight: nn.Parameter, seed: int, lr: float = 0.0, weight_decay: float = 0.0) -> None:
        super().__init__(weight, lr, weight_decay=weight_decay)
        self._seed = seed

    def reduce(self) -> None:
        """Take the mean of the gradient over the ranks, coalesced."""
        if self.weight.grad is not None:
            self.weight.grad = mean_over_ranks(self.weight.grad)

    def _move(self, gradient: Tensor, accepted: Tensor, number: int) -> None:
        weight, group, gradient = self.weight, self.param_groups[0], gradient.coalesce()
        rows = gradient.indices()[0]
        before = weight[rows]
        values = at_least_float32(before)
        values = values - group["lr"] * (gradient.values() + group["weight_decay"] * values)
        after = _rounded_to_half(values, self._seed, number) if weight.dtype == torch.float16 else values
        weight[rows] = torch.where(accepted, after, before)


class ShardSGD(RowOptimizer):
    """SGD with momentum of this rank's rows of a matrix that is split over the ranks, as torch's SGD moves a matrix.

    Its `momentum` is in no state dict, which would know one rank's rows: the task keeps it in the checkpoint.

    Args:
        weight: [n, D] float32 with a gradient, dense or sparse, that is the whole one of these rows, or with none.
    """

    def reduce(self) -> None:
        """Coalesce the gradient, which accumulated batches need."""
        if self.weight.grad is not None and self.weight.grad.is_sparse:
            self.weight.grad = self.weight.grad.coalesce()

    def gradient_norm(self) -> Tensor:
        """Return the L2 norm of the gradient over the rows of all ranks; all ranks must call it together."""
        square = self.weight.new_zeros(())
        if self.weight.grad is not None:
            square = _numbers(self.weight.grad).square().sum()
        if is_distributed() and dist.get_world_size() > 1:
            dist.all_reduce(square)
        return square.sqrt()

    @property
    def momentum(self) -> Tensor | None:
        """What the steps so far have left, [n, D]; None before the first with momentum."""
        found: Tensor | None = self.state[self.weight].get("momentum_buffer")
        return found

    @momentum.setter
    def momentum(self, value: Tensor | None) -> None:
        self.state[self.weight] = {} if value is None else {"momentum_buffer": value}

    def _move(self, gradient: Tensor, accepted: Tensor, number: int) -> None:
        weight, group = self.weight, self.param_groups[0]
        rows: Tensor | slice = slice(None)
        if gradient.is_sparse:
            gradient = gradient.coalesce()
            rows = gradient.indices()[0]
        step = _numbers(gradient).add_(weight[rows], alpha=group["weight_decay"])
        if group["momentum"]:
            momentum = torch.zeros_like(weight) if self.momentum is None else self.momentum.to(weight.device)
            before = momentum[rows]
            step.add_(before, alpha=group["momentum"])
            momentum[rows] = torch.where(accepted, step, before, out=before)
            self.momentum = momentum
        weight[rows] -= step.mul_(group["lr"]).masked_fill_(~accepted, 0.0)


class Judges(NamedTuple):
    """Who decides about an update, and who learns of it."""

    guard: UpdateGuard
    means: RunningMeans
    diagnose: Diagnosis  # see `UpdateGuard.judge`


class CompositeOptimizer(Optimizer):
    """A torch optimizer of all parameters, before which others move the matrices that it must not touch as a whole.

    A schedule sees the groups of the torch optimizer. The others follow the group that holds their matrix in rate,
    momentum and weight decay, and leave no gradient behind. The state dict is that of the torch optimizer.

    Args:
        whole: of all parameters. On a device other than the CPU, or with a loss scaler, it must be a fused one.
        parts: the others.
    """

    def __init__(self, whole: Optimizer, parts: Sequence[RowOptimizer] = ()) -> None:
        super().__init__(whole.param_groups, whole.defaults)
        self.whole, self.parts = whole, parts
        self._adopt()

    def _adopt(self) -> None:
        self.param_groups, self.state = self.whole.param_groups, self.whole.state
        self._group_of = {id(parameter): group for group in self.param_groups for parameter in group["params"]}
        for part in self.parts:  # a fused SGD begins with a momentum for each, which nobody would read
            self.state.pop(part.weight, None)

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the torch optimizer."""
        return self.whole.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take it, and let what it holds of a parameter lie in memory as that does: fused optimizers ask for it."""
        self.whole.load_state_dict(state_dict)
        for parameter, state in self.whole.state.items():
            for name, value in state.items():
                if torch.is_tensor(value) and value.shape == parameter.shape and value.stride() != parameter.stride():
                    state[name] = torch.empty_like(parameter, dtype=value.dtype, requires_grad=False).copy_(value)
        self._adopt()

    def guarded_step(
        self,
        parameters: Iterable[tuple[str, nn.Parameter]],
        judges: Judges,
        number: int,
        max_norm: float = 0.0,
        scaler: GradScaler | None = None,
    ) -> Tensor:
        """Make one update, or skip it: all that lies between gradients and new weights, in its order.

        All ranks must call it together; DDP has taken the mean of the dense gradients over them.

        Args:
            parameters: (name, parameter), those without a gradient too.
            judges: decide, and take in what was measured.
            number: of updates before this one.
            max_norm: the longest that the whole gradient may be; 0: any length.
            scaler: the loss scaler, which has scaled the gradients.
        Returns:
            whether the update was made, a bool scalar on the device, the same on all ranks.
        Raises:
            NonFiniteError: if the update before was one refusal too many.
        """
        if scaler is not None:
            scaler.unscale_(self.whole)
        for part in self.parts:
            part.reduce()
        norms, norm = self.gradient_norms(parameters)
        accepted, passes = judges.guard.judge(number + 1, norms, norm, judges.diagnose, scaled=scaler is not None)
        for forward_pass in passes:
            judges.means.add(forward_pass.values, accepted)
        judges.means.add({"grad_norm": norm}, accepted)
        if max_norm:
            self.clip(max_norm, norm)
        self.step(accepted=accepted, number=number, scaler=scaler)
        return accepted

    def gradient_norms(self, parameters: Iterable[tuple[str, nn.Parameter]]) -> tuple[dict[str, Tensor], Tensor]:
        """Return the norm of each gradient and that of all together; all ranks must call it together.

        Args:
            parameters: (name, parameter); those without a gradient are passed over.
        """
        split, named = {id(part.weight): part for part in self.parts if isinstance(part, ShardSGD)}, dict(parameters)
        here = {name: _numbers(p.grad) for name, p in named.items() if p.grad is not None and id(p) not in split}
        norms = torch.stack(internals.foreach.norm(list(here.values())))
        of_shards = {name: split[id(p)].gradient_norm() for name, p in named.items() if id(p) in split}
        whole = torch.stack([norms.norm(), *of_shards.values()]).norm() if of_shards else norms.norm()
        return dict(zip(here, norms.unbind(), strict=True)) | of_shards, whole

    def clip(self, max_norm: float, norm: Tensor) -> None:
        """Scale the gradients, whose norm is `norm`, down to a norm of at most max_norm."""
        factor = (max_norm / (norm + 1e-6)).clamp(max=1.0)
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    _numbers(parameter.grad).mul_(factor)

    @torch.no_grad()
    def step(  # type: ignore[override]
        self,
        closure: Any = None,
        *,
        accepted: Tensor | None = None,
        number: int = 0,
        scaler: GradScaler | None = None,
    ) -> None:
        """Make a step, or none: neither weights nor momentum change where `accepted` is False.

        Args:
            closure: is not called.
            accepted: bool scalar on the device, read by the host for an optimizer that is not fused alone. None: True.
            number: of updates before this one.
            scaler: the loss scaler, which has unscaled the gradients; it looks for overflows itself.
        """
        if accepted is None:
            device = next(parameter.device for group in self.param_groups for parameter in group["params"])
            accepted = torch.ones((), dtype=torch.bool, device=device)
        for part in self.parts:
            group = self._group_of[id(part.weight)]
            part.param_groups[0].update({name: group.get(name, 0.0) for name in ("lr", "momentum", "weight_decay")})
            part.step(accepted=accepted, number=number)
        refused = (~accepted).float()
        if scaler is not None:
            internals.refuse_update(scaler, self.whole, refused)
            scaler.step(self.whole)
            scaler.update()
        elif self.whole.defaults["fused"]:
            self.whole.found_inf = refused  # type: ignore[attr-defined]  # what a loss scaler would set
            self.whole.step()
        elif accepted:
            self.whole.step()


def mean_over_ranks(gradient: Tensor) -> Tensor:
    """Return the mean of a sparse gradient over the ranks, coalesced, the same on each of them."""
    gradient = gradient.coalesce()
    if not is_distributed():
        return gradient
    from torchmetrics.utilities.distributed import gather_all_tensors  # here: one rank works without it

    rows = torch.cat(gather_all_tensors(gradient.indices()[0]))
    values = torch.cat(gather_all_tensors(gradient.values())) / dist.get_world_size()
    total = torch.sparse_coo_tensor(rows[None], values, gradient.shape, check_invariants=False)
    return total.coalesce()


def _rounded_to_half(values: Tensor, seed: int, number: int) -> Tensor:
    """Return float32 values as float16, rounded up or down at random so that the mean error is zero.

    (Gupta et al., "Deep Learning with Limited Numerical Precision", ICML 2015, arXiv:1502.02551, Sec. 3.) float16 keeps
    10 of the 23 bits behind the point: a uniform number is added to the other 13, which are then cut off.
    """
    key = int(np.random.SeedSequence((seed, number)).generate_state(1)[0])
    generator = torch.Generator(values.device).manual_seed(key)
    bits = values.view(torch.int32)
    noise = torch.randint(2**13, bits.shape, dtype=torch.int32, device=bits.device, generator=generator)
    return ((bits + noise) & -(2**13)).view(torch.float32).half()


def _numbers(gradient: Tensor) -> Tensor:
    return gradient.values() if gradient.is_sparse else gradient
