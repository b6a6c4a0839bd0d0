"""L1, L2 and group lasso on named parameters: as a term of the loss, or as a proximal step after an update.

A group is a slice along axis 0, an output channel or a row; a vector is one group. n is the number of its elements.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from engine.optim import matched
from options.words.patterns import KINDS, Penalty


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


def shrink_l1(weight: Tensor, amount: Tensor) -> Tensor:
    """Return sign(w) max(|w| - amount, 0), which minimizes |x - w|^2 / 2 + amount sum |x|.

    Args:
        weight: any shape.
        amount: strength times rate, a scalar, or of each weight.
    """
    return weight - weight.clamp(-amount, amount)


def shrink_l2(weight: Tensor, amount: Tensor) -> Tensor:
    """Return w / (1 + 2 amount), which minimizes |x - w|^2 / 2 + amount sum x^2; arguments as those of `shrink_l1`."""
    return weight / (1 + 2 * amount)


def shrink_groups(weight: Tensor, amount: Tensor) -> Tensor:
    """Return each group times max(0, 1 - amount sqrt(n) / norm), which minimizes |x - w|^2 / 2 + amount group_lasso(x).

    Args:
        weight: any shape.
        amount: strength times rate, a scalar.
    """
    groups = _groups(weight)
    norms = torch.linalg.vector_norm(groups, dim=1, keepdim=True)
    # A group of zeros has no direction: -inf, or NaN for an amount of 0, and neither may reach the weights.
    factors = torch.where(norms > 0, 1 - amount * groups.shape[1] ** 0.5 / norms, 0.0).clamp_(min=0)
    return (groups * factors).view_as(weight)


PENALTIES: dict[str, Callable[[Tensor], Tensor]] = {"l1": l1, "l2": l2, "group": group_lasso}
SHRINKERS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"l1": shrink_l1, "l2": shrink_l2, "group": shrink_groups}


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

    def loss(self, epoch: int) -> Tensor | None:
        """Return the sum of what belongs into the loss, a scalar; None where nothing does."""
        charges = [charge for charge in self._charges if not charge.penalty.is_proximal]
        parts = [
            penalty.strength_in(epoch) * PENALTIES[penalty.kind](parameter)
            for penalty, parameters in charges
            for parameter in parameters
        ]
        return torch.stack(parts).sum() if parts else None

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
        if not steps:
            return
        groups = {id(parameter): group for group in optimizer.param_groups for parameter in group["params"]}
        for (penalty, parameters), strength in steps:
            for parameter in parameters:
                if parameter.grad is None:
                    continue  # it was not updated
                group = groups[id(parameter)]
                if isinstance(optimizer, AdamW) and penalty.kind != "group":
                    rate = _adam_rate(group, optimizer.state[parameter])
                else:
                    rate = parameter.new_full((), group["lr"])
                amount = torch.where(accepted, strength * rate, 0.0)  # steps of 0 leave every bit
                parameter.copy_(SHRINKERS[penalty.kind](parameter, amount))

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


def _adam_rate(group: dict[str, Any], state: dict[str, Any]) -> Tensor:
    """Return the rate of each weight in AdamW's last step, of the parameter's shape."""
    (beta1, beta2), step = group["betas"], state["step"]
    root = state["exp_avg_sq"].sqrt().add_(group["eps"])
    rate: Tensor = group["lr"] * (1 - beta2**step).sqrt() / (1 - beta1**step) / root
    return rate
