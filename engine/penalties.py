"""L1, L2 and group lasso on named parameters: as a term of the loss, or as a proximal step after an update.

A group is a slice along axis 0, an output channel or a row; a vector is one group. n is the number of its elements.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from engine.internals import foreach
from engine.optim import matched
from options.words.patterns import KINDS, Penalty

Amounts = float | Tensor | list[Tensor] | tuple[Tensor, ...]
# Weights that a step takes at a time on a processor: they and what is computed on the way stay in its cache.
_PIECE = 2**16


def _groups(weight: Tensor) -> Tensor:
    """Return the groups as rows of a matrix."""
    return weight.flatten(1) if weight.ndim > 1 else weight.reshape(1, -1)


def l1(weight: Tensor) -> Tensor:
    """Return sum |w|, a scalar; its gradient is 0 where a weight is."""
    return weight.abs().sum()


def l2(weight: Tensor) -> Tensor:
    """Return sum w^2, a scalar."""
    return weight.square().sum()


def group_lasso(weight: Tensor) -> Tensor:
    """Return sqrt(n) sum of the groups' L2 norms, a scalar; the gradient of a group of zeros is 0.

    Reference: Yuan and Lin, "Model Selection and Estimation in Regression with Grouped Variables", JRSS B 2006.
    """
    groups = _groups(weight)
    return groups.shape[1] ** 0.5 * torch.linalg.vector_norm(groups, dim=1).sum()


def shrink_l1(weights: list[Tensor], amounts: Amounts) -> None:
    """Make w sign(w) max(|w| - amount, 0), which minimizes |x - w|^2 / 2 + amount sum |x|, in place.

    Args:
        weights: of any shapes, without gradients.
        amounts: strength times rate, a number, a scalar, or of each weight's shape.
    """
    if isinstance(amounts, float):
        for weight in weights:
            torch.ops.aten.softshrink.out(weight, amounts, out=weight)
        return
    if isinstance(amounts, Tensor):
        left = foreach.abs(weights)
        foreach.add_(left, -amounts)
        foreach.clamp_min_(left, 0.0)
        foreach.sign_(weights)
        foreach.mul_(weights, left)
    else:
        lost = foreach.clamp_min(weights, foreach.neg(amounts))
        foreach.clamp_max_(lost, [*amounts])
        foreach.sub_(weights, lost)


def shrink_l2(weights: list[Tensor], amounts: Amounts) -> None:
    """Make w w / (1 + 2 amount), which minimizes |x - w|^2 / 2 + amount sum x^2; arguments as those of `shrink_l1`."""
    if isinstance(amounts, float | Tensor):
        foreach.div_(weights, 1 + 2 * amounts)
    else:
        divisors = foreach.mul(amounts, 2.0)
        foreach.add_(divisors, 1.0)
        foreach.div_(weights, divisors)


def shrink_groups(weights: list[Tensor], amounts: Amounts) -> None:
    """Multiply groups by max(0, 1 - amount sqrt(n) / norm), which minimizes |x - w|^2 / 2 + amount group_lasso(x).

    Args:
        weights: of any shapes, without gradients, changed in place.
        amounts: strength times rate, a number or a scalar.
    """
    assert isinstance(amounts, float | Tensor)  # the norm of a group has no closed step in another metric
    for weight in weights:
        groups = _groups(weight)
        norms = torch.linalg.vector_norm(groups, dim=1)
        # A group of zeros has no direction: -inf, or NaN for an amount of 0, and neither may reach the weights.
        factors = torch.where(norms > 0, 1 - amounts * groups.shape[1] ** 0.5 / norms, 0.0).clamp_(min=0)
        weight.mul_(factors.view(-1, *[1] * (weight.ndim - 1)) if weight.ndim > 1 else factors.view(()))


PENALTIES: dict[str, Callable[[Tensor], Tensor]] = {"l1": l1, "l2": l2, "group": group_lasso}
SHRINKERS: dict[str, Callable[[list[Tensor], Amounts], None]] = {
    "l1": shrink_l1,
    "l2": shrink_l2,
    "group": shrink_groups,
}


class _Charge(NamedTuple):
    penalty: Penalty
    parameters: list[nn.Parameter]


class Penalties:
    """What is charged for the sizes of a module's parameters.

    Several kinds may charge one parameter, each once. Their proximal steps follow each other in the order of `KINDS`,
    which makes them the exact step of their sum: thresholds first, norms of groups of what is left, and the division of
    L2, which commutes with both, at last.

    Args:
        penalties: by pattern.
        named: (name, parameter) of what is trained.
        apart: parameters that are moved row by row, which nothing can charge.
    Raises:
        ValueError: one line if a pattern fits no parameter, two of one kind fit the same, or one fits what is apart.
    """

    def __init__(
        self,
        penalties: Iterable[Penalty],
        named: Iterable[tuple[str, nn.Parameter]],
        apart: Collection[nn.Parameter] = (),
    ) -> None:
        trained = {name: parameter for name, parameter in named if parameter.requires_grad}
        rows = {id(parameter) for parameter in apart}
        self._charges: list[_Charge] = []
        ordered = sorted(penalties, key=lambda penalty: KINDS.index(penalty.kind))
        for kind in KINDS:
            of_kind = [penalty for penalty in ordered if penalty.kind == kind]
            fitting = matched(trained, [penalty.pattern for penalty in of_kind], "--penalty")
            if split := [name for name in fitting if id(trained[name]) in rows]:
                raise ValueError(f"--penalty {fitting[split[0]]}: {split[0]} is moved row by row; leave it out")
            for penalty in of_kind:
                names = [name for name, pattern in fitting.items() if pattern == penalty.pattern]
                self._charges.append(_Charge(penalty, [trained[name] for name in names]))

    def loss(self, epoch: int) -> dict[str, tuple[float, Tensor]]:
        """Return what belongs into the loss as a weighted term, "penalty"; none where all steps are proximal."""
        parts = [
            penalty.strength_in(epoch) * PENALTIES[penalty.kind](parameter)
            for penalty, parameters in self._charges
            for parameter in parameters
            if not penalty.is_proximal
        ]
        return {"penalty": (1.0, torch.stack(parts).sum())} if parts else {}

    @torch.no_grad()
    def shrink(self, optimizer: Optimizer, epoch: int, accepted: Tensor) -> None:
        """Make the proximal steps, each parameter's at the rate that it was just updated with.

        The rate of L1 and L2 under AdamW is the one of each weight: lr sqrt(1 - b2^t) / (1 - b1^t) / (sqrt(v) + eps),
        what AdamW has multiplied its first moment with. The norm of a group has no closed step in that metric, and
        takes lr.

        Args:
            optimizer: a torch optimizer that has just updated the parameters.
            epoch: from 0.
            accepted: bool scalar on the device; where it is False nothing changes.
        """
        strengths = [(charge, charge.penalty.strength_in(epoch)) for charge in self._charges]
        steps = [(charge, strength) for charge, strength in strengths if charge.penalty.is_proximal and strength]
        on_cpu = accepted.device.type == "cpu"  # where the host knows the answer already
        if not steps or (on_cpu and not accepted):
            return
        groups = {id(parameter): group for group in optimizer.param_groups for parameter in group["params"]}
        for (penalty, parameters), strength in steps:
            together: dict[int, list[nn.Parameter]] = {}
            for parameter in parameters:
                if parameter.grad is not None:  # else it was not updated
                    together.setdefault(id(groups[id(parameter)]), []).append(parameter)
            by_weight = isinstance(optimizer, AdamW) and penalty.kind != "group"
            for updated in together.values():
                group = groups[id(updated[0])]
                # One after the other in a processor's cache; on a device all at once, where every operation costs.
                for batch in [[parameter] for parameter in updated] if on_cpu else [updated]:
                    states = [optimizer.state[parameter] for parameter in batch] if by_weight else []
                    rates = [group["lr"] * _adam_factor(group, state["step"]) for state in states] or [group["lr"]]
                    amounts = [strength * rate for rate in rates]
                    if not on_cpu:  # steps of 0 leave every bit
                        known = [torch.as_tensor(amount, device=accepted.device) for amount in amounts]
                        amounts = [torch.where(accepted, amount, 0.0) for amount in known]
                    _shrink(batch, penalty.kind, amounts, states, group)

    @torch.no_grad()
    def sparsity(self) -> dict[str, float]:
        """Return by pattern the share of weights that are 0, and for group lasso of groups that are 0 as a whole."""
        shares: dict[str, float] = {}
        for penalty, parameters in self._charges:
            zeros = sum(int((parameter == 0).sum()) for parameter in parameters)
            shares[f"zeros/{penalty.pattern}"] = zeros / sum(parameter.numel() for parameter in parameters)
            if penalty.kind == "group":
                empty = [(_groups(parameter) == 0).all(1) for parameter in parameters]
                shares[f"zero_groups/{penalty.pattern}"] = float(torch.cat(empty).double().mean())
        return shares


def _adam_factor(group: dict[str, Any], step: Tensor) -> float | Tensor:
    """Return sqrt(1 - b2^t) / (1 - b1^t) of AdamW's last step."""
    beta1, beta2 = group["betas"]
    factor: Tensor = (1 - beta2**step).sqrt() / (1 - beta1**step)
    return float(factor) if step.device.type == "cpu" else factor


def _shrink(
    parameters: list[nn.Parameter],
    kind: str,
    amounts: list[float | Tensor],
    states: list[dict[str, Any]],
    group: dict[str, Any],
) -> None:
    """Make the step of parameters of one group of an optimizer: the same for all, or by the rates in AdamW's states."""
    moved = [[parameter.detach()] for parameter in parameters]
    for tensors, state in zip(moved, states, strict=False):  # no states: the rate is the group's
        tensors.append(state["exp_avg_sq"])
    for pieces in zip(*(_pieces(kind, tensors) for tensors in moved), strict=True):
        weights, *squares = (list(of_all) for of_all in zip(*pieces, strict=True))
        if not squares:
            SHRINKERS[kind](weights, amounts[0])
            continue
        rates = foreach.sqrt(squares[0])
        foreach.add_(rates, group["eps"])
        foreach.reciprocal_(rates)
        foreach.mul_(rates, amounts)  # type: ignore[arg-type]  # all numbers, or all scalars
        SHRINKERS[kind](weights, rates)


def _pieces(kind: str, tensors: list[Tensor]) -> list[tuple[Tensor, ...]]:
    """Return in parts what belongs to one parameter, with whole groups in each; on a device in one."""
    first = tensors[0]
    if first.device.type != "cpu" or not all(tensor.is_contiguous() for tensor in tensors):
        return [(*tensors,)]
    if kind != "group":
        return [*zip(*(tensor.view(-1).split(_PIECE) for tensor in tensors), strict=True)]
    if first.ndim < 2:
        return [(first,)]
    return [(rows,) for rows in first.split(max(1, _PIECE // max(1, first[0].numel())))]
