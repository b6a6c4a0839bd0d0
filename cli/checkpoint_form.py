"""What a checkpoint must hold for a run to go on from it: compared, place by place, with what a fresh run saves."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.environments import LightningEnvironment
from torch import Tensor

from config import Config
from engine import optim
from engine.callbacks import AVERAGED_KEY, RANKS_KEY, BestCheckpoint, averaged
from engine.module import TrainingModule
from models.checkpoint_rules import ENTRIES, LATER_ENTRIES, equal_to, indices, not_negative, state_rules
from ops import Rule, at_least, each, either, first_fault, named
from options.engine import EngineOptions
from options.names import NO_METRIC
from tasks.recognition.paired_nets import TEACHER, teacher_fault
from train_val import Recognizer

# What --patience keeps, which may be given when a run goes on.
PATIENCE = {"Patience": {"best": either(None, 0.0), "best_step": 0, "waited": 0}}
_UPDATED_ELSEWHERE = "matcher.class_embeddings.weight"
_LIGHTNING_2 = re.compile(r"2\.\d{1,3}\.\d{1,3}(\.?(a|b|rc|dev|post)\d{1,6})?")


def model_fault(checkpoint: Mapping[str, Any], template: Recognizer) -> str | None:
    """Return what in a checkpoint does not fit the model that its options describe; None if all does.

    Args:
        checkpoint: read, its `hyper_parameters` checked.
        template: that model with a dense head, on any device; only shapes and dtypes are read.
    """
    state = state_rules(template.state_dict())
    for name in state.keys() & {"matcher.class_embeddings.neighbours"}:
        state[name] = indices(template.state_dict()[name], sum(template.num_classes.values()))
    return first_fault(at_least({"state_dict": state, **ENTRIES}, LATER_ENTRIES), checkpoint, "")


def run_fault(checkpoint: Mapping[str, Any], template: Recognizer) -> str | None:
    """Return what in a checkpoint whose model fits is not what a run with these options saves, or None."""
    config = template.config

    def others(is_updated: bool) -> dict[str, object]:
        rules: dict[str, object] = {
            "callbacks": _callbacks_rule(config, sum(template.num_classes.values()), checkpoint["FaceDataModule"])
        }
        if config.ema_decay:
            rules[AVERAGED_KEY] = averaged(template.state_dict(), template)
        if config.has_teacher:
            dtype = next(template.model.parameters()).dtype
            rules[TEACHER] = partial(teacher_fault, dtype=dtype, classes=template.num_classes)
        if config.partial_fc_rate:
            kernel = template.head.kernel
            assert isinstance(kernel, Tensor)
            whole = config.momentum > 0 and is_updated
            momentum = dict.fromkeys(template.num_classes, kernel.T)
            rules["head_momentum"] = momentum if whole else at_least({}, momentum)
        return rules

    return engine_fault(checkpoint, template, "FaceDataModule", others)


def engine_fault(
    checkpoint: Mapping[str, Any],
    template: TrainingModule,
    data: str,
    others: Callable[[bool], Mapping[str, object]],
) -> str | None:
    """Return what in a checkpoint is not what the engine saves of a run, whatever is trained, or None.

    Args:
        checkpoint: read; its model fits.
        template: that model, without numbers.
        data: the name of the data module.
        others: the rules of the callbacks and of what a task saves, told whether an update was made.
    """
    place = {"seed": 0, "epoch": 0, "batches_done": 0}
    counts = at_least({"epoch": 0, "global_step": 0, data: place}, {"skipped_steps": 0})
    if fault := first_fault(counts, checkpoint, ""):
        return fault
    is_updated = checkpoint["global_step"] > checkpoint.get("skipped_steps", 0)
    optimizer, scheduler = _optimization_rules(template, is_updated)
    scaler = named(either(0.0, 0))
    required = {
        "pytorch-lightning_version": _lightning_version,
        "loops": _loops_rule(),
        "optimizer_states": [optimizer],
        "lr_schedulers": [scheduler],
        RANKS_KEY: each(_rank_state, least=1),
        **others(is_updated),
    }
    fault = first_fault(at_least(required, {"MixedPrecision": scaler}), checkpoint, "")
    return fault or _disagreement(checkpoint, template.options, data)


# ---------------------------------------------------------------- optimizer and schedule


def _optimization_rules(template: TrainingModule, is_updated: bool) -> tuple[Rule, Rule]:
    """Return the rules for the states of the optimizer and of the schedule."""
    c = template.options
    names = {id(parameter): name for name, parameter in template.named_parameters()}
    groups = optim.parameter_groups([template], c.weight_decay, c.factors, c.run_stages)
    parameters = [parameter for group in groups for parameter in group["params"]]
    optimizer = optim.build_optimizer(c.optimizer, groups, c.lr, c.momentum)
    scheduler = optim.build_scheduler(optimizer, c.lr_schedule, optim.SchedulePlan(1))
    split = ["heads.0.kernel"] if getattr(c, "partial_fc_rate", 0) else []
    elsewhere = {_UPDATED_ELSEWHERE, *split}
    states = {index: _parameter_state(c, parameter) for index, parameter in enumerate(parameters)}
    required = {i: state for i, state in states.items() if is_updated and names[id(parameters[i])] not in elsewhere}
    if (c.optimizer == "sgd" and not c.momentum) or c.stages:  # a stage may not have come yet
        required = {}

    def state_rule(found: object, place: str) -> str | None:
        extra = [key for key in found if key not in states] if isinstance(found, dict) else []
        return f"{place}[{str(extra[0])[:20]}]: unexpected" if extra else at_least(required, states)(found, place)

    group_rules = [_settings_rule(group, "lr", "initial_lr") for group in optimizer.state_dict()["param_groups"]]
    moving = ("base_lrs", "last_epoch", "_step_count", "_last_lr")
    return at_least({"state": state_rule, "param_groups": group_rules}), _settings_rule(scheduler.state_dict(), *moving)


def _settings_rule(settings: Mapping[str, Any], *free: str) -> Rule:
    """Return the rule for the settings of an optimizer or a schedule; its switches differ from version to version."""
    switches = {key: either(None, False) for key, value in settings.items() if value is None or value is False}
    required = {key: value if key in free else equal_to(value) for key, value in settings.items()}
    return at_least({key: rule for key, rule in required.items() if key not in switches}, switches)


def _parameter_state(config: EngineOptions, parameter: Tensor) -> Mapping[str, object]:
    if config.optimizer == "adamw":
        return {"step": _step, "exp_avg": parameter, "exp_avg_sq": not_negative(parameter)}
    return {"momentum_buffer": parameter if config.momentum else either(None, parameter)}


def _step(found: object, place: str) -> str | None:
    sound = isinstance(found, Tensor) and found.ndim == 0 and found.is_floating_point() and 0 <= found < 2**53
    return None if sound else f"{place}: the number of an update expected, a scalar tensor"


# ---------------------------------------------------------------- counters


@cache
def _loops_rule() -> Mapping[str, object]:
    """Return what Lightning saves of the counters of a run that has not begun."""
    trainer = pl.Trainer(
        accelerator="cpu", devices=1, plugins=[LightningEnvironment()], logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    loops = ("fit_loop", "validate_loop", "test_loop", "predict_loop")
    return {name: getattr(trainer, name).state_dict() for name in loops}


def _disagreement(checkpoint: Mapping[str, Any], config: EngineOptions, place: str) -> str | None:
    """Return which of the counters, each of them sound, contradict each other."""
    step, loops, data = checkpoint["global_step"], checkpoint["loops"]["fit_loop"], checkpoint[place]
    epochs, batches = loops["epoch_progress"]["current"], loops["epoch_loop.batch_progress"]["current"]
    steps = loops["epoch_loop.automatic_optimization.optim_progress"]["optimizer"]["step"]["total"]["completed"]
    inside = {"epoch": epochs["started"] - 1, "batches_done": batches["processed"]}
    ended = {"epoch": epochs["started"], "batches_done": 0}
    means = [set(rank["means"]) for rank in checkpoint[RANKS_KEY]]
    schedule, groups = checkpoint["lr_schedulers"][0], checkpoint["optimizer_states"][0]["param_groups"]
    checks = {
        "loops.fit_loop: its counters contradict each other": _in_order(loops),
        f"global_step is {step}, but loops.fit_loop counts {steps} steps": steps == step,
        f"skipped_steps: at most {step} expected": checkpoint.get("skipped_steps", 0) <= step,
        "lr_schedulers[0]: other rates than the optimizer's": (
            [schedule["base_lrs"], schedule["_last_lr"]]
            == [[group[key] for group in groups] for key in ("initial_lr", "lr")]
        ),
        f"epoch: at most {epochs['processed']} expected": checkpoint["epoch"] <= epochs["processed"] <= config.epochs,
        f"{place}.seed: {config.seed} expected": data["seed"] == config.seed,
        f"{place}: another place in the data than loops.fit_loop says": (
            {key: data[key] for key in inside} in (inside, ended)
        ),
        f"{RANKS_KEY}: the ranks have different means": all(names == means[0] for names in means),
    }
    return next((fault for fault, agrees in checks.items() if not agrees), None)


def _in_order(counters: Mapping[str, Any]) -> bool:
    """Return whether nothing in Lightning's counters is completed before it is begun, and one at most is under way."""
    if "ready" in counters:
        order = [counters[key] for key in ("completed", "processed", "started", "ready") if key in counters]
        return order == sorted(order) and order[-1] <= order[0] + 1
    return all(_in_order(part) for part in counters.values() if isinstance(part, dict))


def _lightning_version(found: object, place: str) -> str | None:
    sound = isinstance(found, str) and _LIGHTNING_2.fullmatch(found)
    return None if sound else f"{place}: a version 2 of Lightning expected"


# ---------------------------------------------------------------- callbacks and ranks


def _callbacks_rule(config: Config, num_classes: int, place: Mapping[str, int]) -> Rule:
    table = indices(torch.empty(num_classes, config.batch_size // 4 - 1, dtype=torch.int32, device="meta"), num_classes)
    tables: dict[str, object] = {"NeighbourTable": {"epoch": 0, "table": table}} if config.sampler == "graph" else {}
    # Inside an epoch another table would be another plan; the first epoch may have none.
    required = tables if place["epoch"] and place["batches_done"] else {}
    watch = {"PairedWatch": {"areas": named([0.0, 0.0])}}
    picture = {"MixturePicture": at_least({"ease": _ease}, {"checksum": either(None, 0)})}
    return at_least(required | best_rule(config.monitor), tables | PATIENCE | watch | picture)


def _ease(found: object, place: str) -> str | None:
    sound = isinstance(found, dict) and all(
        type(epoch) is int and epoch >= 0 and type(mean) is float and 0 <= mean <= 1 for epoch, mean in found.items()
    )
    return None if sound else f"{place}: the mean ease of epochs expected, numbers in [0, 1]"


def best_rule(monitor: str) -> dict[str, object]:
    """Return the rule for the state of the best checkpoint, by its key; none where nothing is monitored."""
    if monitor == NO_METRIC:
        return {}
    best = BestCheckpoint(None, monitor=monitor, mode="max", save_top_k=1, enable_version_counter=False)
    score = either(None, _score)
    state = {
        **{"monitor": equal_to(monitor), "best_model_score": score, "current_score": score},
        **{"best_model_path": "", "kth_best_model_path": "", "last_model_path": "", "kth_value": _score},
        **{"dirpath": either(None, ""), "best_k_models": named(_score)},
    }  # fmt: skip
    return {best.state_key: at_least(state)}


def _score(found: object, place: str) -> str | None:
    sound = isinstance(found, Tensor) and found.ndim == 0 and found.is_floating_point() and not found.isnan()
    return None if sound else f"{place}: a number expected, a scalar tensor"


def _rank_state(found: object, place: str) -> str | None:
    means = named(_sum_and_count)
    entries = {"generators": _generators, "means": means, "unreadable": named("")}
    return first_fault(at_least(entries), found, place)


def _sum_and_count(found: object, place: str) -> str | None:
    sound = isinstance(found, Tensor) and found.shape == (2,) and found.dtype == torch.double and found[1] >= 0
    return None if sound and torch.isfinite(found[1]) else f"{place}: a sum and a count expected"  # type: ignore[index]


def _generators(found: object, place: str) -> str | None:
    """Try the states on generators of our own: each kind judges for itself."""
    if not isinstance(found, dict):
        return f"{place}: a dict expected"
    try:
        random.Random().setstate(found["python"])
        keys, *rest = found["numpy"]
        np.random.RandomState().set_state(("MT19937", np.array(keys, np.uint32), *rest))
        torch.Generator().set_state(found["torch"])
    except (KeyError, TypeError, ValueError, IndexError, OverflowError, RuntimeError) as error:
        return f"{place}: no states of generators ({type(error).__name__})"
    cuda = found.get("cuda", torch.empty(16, dtype=torch.uint8))
    sound = isinstance(cuda, Tensor) and cuda.dtype == torch.uint8 and cuda.shape == (16,)
    return None if sound else f"{place}.cuda: [16] uint8 expected"
