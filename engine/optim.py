"""Parameter groups, optimizers and learning-rate schedules, each decided in one place."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from engine.internals import remember_rates
from options.words.patterns import Factors, Stage

FACTOR = "lr_factor"  # in a group of an optimizer, of the base learning rate; 1 where there is none
_PEAK_SHARE, _START_DIVISOR, _END_DIVISOR = 0.3, 25.0, 1e4  # of one cycle, torch's defaults
_RATES = "stage_rates"  # in a group before there is an optimizer
Rates = tuple[float | None, ...]  # in each stage: None is the base rate, 0 not trained


@dataclass(frozen=True)
class SchedulePlan:
    """What a schedule needs to know; all lengths are optimizer steps.

    Attributes:
        total_steps: steps of the whole run, >= 1.
        warmup_steps: steps of linear warm-up from 0, counted inside total_steps.
        milestones: steps at which the multistep schedule multiplies by gamma.
        gamma: factor of the multistep schedule.
        floor: factor that the cosine schedule ends at.
        starts: steps at which stages begin, each with a warm-up and a schedule over its own steps; the first is 0.
    """

    total_steps: int
    warmup_steps: int = 0
    milestones: Sequence[int] = ()
    gamma: float = 0.1
    floor: float = 0.0
    starts: tuple[int, ...] = (0,)

    def stage_at(self, step: int) -> int:
        """Return the number of the stage that a step >= 0 belongs to."""
        return bisect_right(self.starts, step) - 1


def multistep_factor(step: int, plan: SchedulePlan) -> float:
    """Return gamma to the power of the milestones already passed."""
    return plan.gamma ** sum(step >= milestone for milestone in plan.milestones)


def cosine_factor(step: int, plan: SchedulePlan) -> float:
    """Return half a cosine from 1 after warm-up to the floor at total_steps, and there on.

    Reference: Loshchilov and Hutter, arXiv:1608.03983, eq. 5.
    """
    length = max(1, plan.total_steps - plan.warmup_steps)
    progress = min(1.0, max(0.0, (step - plan.warmup_steps) / length))
    return plan.floor + (1.0 - plan.floor) * 0.5 * (1.0 + math.cos(math.pi * progress))


def onecycle_factor(step: int, plan: SchedulePlan) -> float:
    """Return half a cosine from 1/25 up to 1 over 30 % of the steps, then half a cosine down to 1/250,000.

    The peak is at step 0.3 * total_steps - 1, the end at total_steps - 1, as in torch's OneCycleLR. Momentum stays.

    Reference: Smith and Topin, "Super-Convergence", arXiv:1708.07120.
    """
    peak, last = _PEAK_SHARE * plan.total_steps - 1, max(1, plan.total_steps) - 1
    if step <= peak:
        return _between(1 / _START_DIVISOR, 1.0, step / peak)
    return _between(1.0, 1 / (_START_DIVISOR * _END_DIVISOR), min(1.0, (step - peak) / (last - peak)))


def _between(start: float, end: float, progress: float) -> float:
    return end + (start - end) * 0.5 * (1.0 + math.cos(math.pi * progress))


SCHEDULES: dict[str, Callable[[int, SchedulePlan], float]] = {
    "multistep": multistep_factor,
    "cosine": cosine_factor,
    "onecycle": onecycle_factor,
}


def lr_factor(step: int, schedule: str, plan: SchedulePlan) -> float:
    """Return the factor on the base learning rate for the optimizer step with this 0-based number."""
    number = plan.stage_at(step)
    begin, end = [*plan.starts, plan.total_steps][number : number + 2]
    plan, step = replace(plan, total_steps=end - begin, starts=(0,)), step - begin
    warmup = min(1.0, (step + 1) / plan.warmup_steps) if plan.warmup_steps else 1.0
    return warmup * SCHEDULES[schedule](step, plan)


def build_scheduler(
    optimizer: Optimizer, schedule: str, plan: SchedulePlan, groups: Sequence[Mapping] = ()
) -> LambdaLR:
    """Return a per-step scheduler; it must be stepped once after every optimizer step.

    Args:
        optimizer: of `build_optimizer`.
        schedule: a key of SCHEDULES.
        plan: its steps.
        groups: of `parameter_groups`, where there are stages.
    """
    base = optimizer.defaults["lr"]

    def in_stages(rates: Rates) -> Callable[[int], float]:
        factors = [1.0 if rate is None else rate / base for rate in rates]
        return lambda step: factors[plan.stage_at(step)] * lr_factor(step, schedule, plan)

    if any(_RATES in group for group in groups):
        once: Rates = (None,) * len(plan.starts)
        return LambdaLR(optimizer, [in_stages(group.get(_RATES, once)) for group in groups])
    return LambdaLR(optimizer, lambda step: lr_factor(step, schedule, plan))


def stage_starts(stages: Sequence[Stage], total_steps: int) -> tuple[int, ...]:
    """Return the steps at which stages begin that fill a run; without stages 0 alone."""
    ends = [sum(stage.epochs for stage in stages[:number]) for number in range(len(stages) + 1)]
    return tuple(round(end * total_steps / ends[-1]) for end in ends[:-1]) or (0,)


def stage_rates(names: Collection[str], stages: Sequence[Stage]) -> dict[str, Rates]:
    """Return the rates of each parameter in the stages; nothing where there are none.

    Raises:
        ValueError: see `matched`.
    """
    if not stages:
        return {}
    fits = [matched(names, [pattern for pattern, _ in stage.rates], "--stages") for stage in stages]
    rates = [dict(stage.rates) for stage in stages]
    return {
        name: tuple(of_stage[fit[name]] if name in fit else 0.0 for of_stage, fit in zip(rates, fits, strict=True))
        for name in names
    }


def unfinished(margin_epochs: float, epochs: int, warmup_steps: int, steps: int) -> list[str]:
    """Return a line for each warm-up that a run of so many epochs and optimizer steps does not finish."""
    lines = []
    if margin_epochs > epochs:
        lines.append(
            f"--margin_warmup_epochs {margin_epochs:g} is more than --epochs {epochs}: the margin reaches "
            f"{100 * epochs / margin_epochs:.0f} % of its value; give fewer, as 0.4 of the epochs"
        )
    if warmup_steps > steps:
        lines.append(
            f"--warmup_steps {warmup_steps} is more than the {steps} steps of the run: the learning rate reaches "
            f"{100 * steps / warmup_steps:.0f} % of --lr; give fewer"
        )
    return lines


def restart(optimizer: Optimizer, scheduler: LambdaLR, hyper: Mapping[str, float], steps: int) -> None:
    """Give optimizer and schedule that come from a checkpoint other numbers; momentum, moments and factors stay.

    Args:
        optimizer: of `parameter_groups`.
        scheduler: of `build_scheduler`.
        hyper: "lr", "momentum" and "weight_decay".
        steps: where in the schedule the run goes on.
    """
    scheduler.last_epoch = steps
    scheduler.base_lrs = [hyper["lr"] * group.get(FACTOR, 1.0) for group in optimizer.param_groups]
    factors = [factor(steps) for factor in scheduler.lr_lambdas]
    rates: list[float | Tensor] = [base * factor for base, factor in zip(scheduler.base_lrs, factors, strict=True)]
    for group, base, rate in zip(optimizer.param_groups, scheduler.base_lrs, rates, strict=True):
        group["initial_lr"], group["lr"] = base, rate
        if "momentum" in group:
            group["momentum"] = hyper["momentum"]
    for group in optimizer.param_groups[::2]:  # the others are of norms and biases, which have none
        group["weight_decay"] = hyper["weight_decay"]
    remember_rates(scheduler, rates)


def matched(names: Collection[str], patterns: Iterable[str], flag: str) -> dict[str, str]:
    """Return the pattern that fits each name, of those that one fits.

    Args:
        names: of the parameters that are trained.
        patterns: as fnmatch has them.
        flag: that gives the patterns, for the message.
    Raises:
        ValueError: one line if a pattern fits no parameter, or two fit the same one.
    """
    found: dict[str, str] = {}
    for pattern in patterns:
        fitting = [name for name in names if fnmatchcase(name, pattern)]
        if not fitting:
            raise ValueError(
                f"{flag}: no parameter that is trained is called {pattern!r}; names are like"
                f" {', '.join([*names][::40])}"
            )
        if twice := [name for name in fitting if name in found]:
            raise ValueError(f"{flag}: both {found[twice[0]]!r} and {pattern!r} fit {twice[0]}; give one of them")
        found |= dict.fromkeys(fitting, pattern)
    return found


def parameter_groups(
    modules: Iterable[nn.Module], weight_decay: float, factors: Factors = (), stages: Sequence[Stage] = ()
) -> list[dict]:
    """Split the trainable parameters in pairs of groups: matrices and filters decay, norms and biases do not.

    A parameter with at most one dimension is a bias, a normalization weight or a PReLU slope; decaying those
    only moves their scale (He et al., arXiv:1812.01187, Sec. 3.1).

    Args:
        modules: whose parameters are trained.
        weight_decay: of matrices and filters.
        factors: of the base learning rate by pattern of the names within a module. What none fits is in the first
            pair; each pattern has a pair, in its order, that `build_optimizer` gives its rate.
        stages: of the run, instead of factors: parameters with the same rates in all of them share a pair.
    Raises:
        ValueError: see `matched`.
    """
    trained = [(n, p) for module in modules for n, p in module.named_parameters() if p.requires_grad]
    names = [name for name, _ in trained]
    kind_of: Mapping[str, str | Rates] = stage_rates(names, stages)
    kinds: dict[str | Rates | None, dict[str, Any]] = {None: {}}
    if stages:
        kinds |= {rates: {_RATES: rates} for rates in kind_of.values()}
    else:
        kind_of = matched(names, [pattern for pattern, _ in factors], "--lr_factors")
        kinds |= {pattern: {FACTOR: factor} for pattern, factor in factors}
    groups: list[dict] = []
    for kind, extra in kinds.items():
        own = [parameter for name, parameter in trained if kind_of.get(name) == kind]
        groups.append({"params": [p for p in own if p.ndim > 1], "weight_decay": weight_decay, **extra})
        groups.append({"params": [p for p in own if p.ndim <= 1], "weight_decay": 0.0, **extra})
    return groups


def named_rates(
    applied: Sequence[float], base: float, factors: Factors = (), stage: Stage | None = None
) -> dict[str, float]:
    """Return the rate of the first groups as "lr", and as "lr/<pattern>" that of each pattern's.

    Args:
        applied: the rates of the groups of `parameter_groups` in a step.
        base: learning rate, before the schedule.
        factors: those of the groups.
        stage: the one at hand, where there are stages.
    """
    if stage is not None:
        return {"lr": applied[0]} | {f"lr/{p}": (base if r is None else r) * applied[0] / base for p, r in stage.rates}
    names = ["lr", *(f"lr/{pattern}" for pattern, _ in factors)]
    return dict(zip(names, applied[::2], strict=True))


def freeze(module: nn.Module, patterns: Sequence[str]) -> None:
    """Take parameters out of the training, and put the parts that are frozen whole into eval mode.

    Their running statistics stay, and so do the modes: Lightning keeps those of the parts.

    Args:
        module: as a run trains it; a head that is split over ranks is not in it yet.
        patterns: of names, as fnmatch has them.
    Raises:
        ValueError: if a pattern fits no parameter, or none is left.
    """
    parameters = dict(module.named_parameters())
    for pattern in patterns:
        names = [name for name in parameters if fnmatchcase(name, pattern)]
        if not names:
            raise ValueError(
                f"--freeze: no parameter is called {pattern!r}; names are like {', '.join([*parameters][::40])}"
            )
        for name in names:
            parameters[name].requires_grad_(False)
    if patterns and not any(parameter.requires_grad for parameter in parameters.values()):
        raise ValueError(f"--freeze {','.join(patterns)}: leaves nothing for the optimizer to train")
    rest_frozen(module, {id(p) for n, p in parameters.items() if any(fnmatchcase(n, pattern) for pattern in patterns)})


def rest_frozen(module: nn.Module, frozen: Collection[int]) -> None:
    """Put the parts of a module whose parameters, by their ids, are all frozen into eval mode."""
    ids = set(frozen)
    for part in module.modules():
        own = [id(parameter) for parameter in part.parameters()]
        if own and ids.issuperset(own):
            part.eval()


def describe_frozen(module: nn.Module) -> str:
    """Return a line on how many parameters are trained and how many are frozen."""
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in module.parameters()]
    trained = sum(size for size, is_trained in sizes if is_trained)
    return f"{trained:,} parameters are trained, {sum(size for size, _ in sizes) - trained:,} are frozen"


def build_optimizer(name: str, groups: list[dict], lr: float, momentum: float, fused: bool = False) -> Optimizer:
    """Return the optimizer called `name`; `momentum` is read by SGD only.

    Args:
        groups: of `parameter_groups`.
        fused: a step of it can then be skipped on the device (`CompositeOptimizer.step`).

    Raises:
        ValueError: if the name is unknown.
    """
    groups = [{key: value for key, value in group.items() if key != _RATES} for group in groups]
    groups = [{**group, "lr": lr * group[FACTOR]} if FACTOR in group else group for group in groups]
    builders: dict[str, Callable[[], Optimizer]] = {
        "sgd": lambda: SGD(groups, lr=lr, momentum=momentum, fused=fused),
        "adamw": lambda: AdamW(groups, lr=lr, fused=fused),
    }
    if name not in builders:
        raise ValueError(f"build_optimizer: unknown optimizer {name!r}; choose one of {', '.join(builders)}")
    optimizer = builders[name]()
    forget(optimizer, [parameter for group in groups for parameter in group["params"]])
    return optimizer


def forget(optimizer: Optimizer, parameters: Iterable[nn.Parameter]) -> None:
    """Let parameters begin as those of a new optimizer: without momentum and moments."""
    for parameter in parameters:
        optimizer.state.pop(parameter, None)
        if isinstance(optimizer, SGD) and optimizer.defaults["momentum"] and optimizer.defaults["fused"]:
            # It would take the momentum of its first step as it finds the memory, if that step were skipped.
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
