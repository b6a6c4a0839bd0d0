"""Checkpoints of tasks read back to go on from; nothing in a file is executed or believed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from cli import checkpoint_form
from engine.callbacks import AVERAGED_KEY, averaged
from engine.module import TrainingModule
from models import loading
from models.checkpoint_rules import PRIMITIVES
from ops import at_least, first_fault, foreign_tensor
from options.engine import EngineOptions

_KEYS = ("state_dict", "hyper_parameters", "color_space")


class Kind(NamedTuple):
    """What the checkpoints of a task are.

    Attributes:
        task: what their hyper-parameters call it.
        what: it is, for messages.
        color_space: that the weights expect.
        options: the class of the options.
        parameters: rules of the hyper-parameters beside task and options.
        others: rules of those that may be missing.
        build: hyper-parameters -> the module that they describe.
        state_rules: that module -> the rules of its state dict.
        data: the name of the data module.
    """

    task: str
    what: str
    color_space: str
    options: type[EngineOptions]
    parameters: Mapping[str, object]
    others: Mapping[str, object]
    build: Callable[[Mapping[str, Any]], TrainingModule]
    state_rules: Callable[[Any], Mapping[str, object]]
    data: str


def read_to_resume(path: str | Path, kind: Kind) -> dict[str, Any]:
    """Return a checkpoint of a task as plain data, tensors on the CPU; a run can go on from it.

    Raises:
        FileNotFoundError: if there is no such file.
        DamagedCheckpointError: if it cannot be read or its checksum is wrong.
        ValueError: if another task wrote it, or something in it is not as this one writes it; one line with the file
            and the place in it.
    """
    path = Path(path)
    checkpoint = _check_own(path, loading.read_content(path), kind)
    with loading.errors_name(path), torch.device("meta"):
        template = kind.build(checkpoint["hyper_parameters"])
    rules = at_least({"state_dict": kind.state_rules(template)})
    if fault := first_fault(rules, checkpoint, ""):
        raise ValueError(f"{path}: {fault}")

    def others(is_updated: bool) -> Mapping[str, object]:
        best = at_least(checkpoint_form.best_rule(template.options.monitor), checkpoint_form.PATIENCE)
        means = {AVERAGED_KEY: averaged(template.state_dict(), template)} if template.options.ema_decay else {}
        return {"callbacks": best, **means}

    if fault := checkpoint_form.engine_fault(checkpoint, template, kind.data, others):
        raise ValueError(f"{path}: {fault}; a run cannot go on from it")
    return checkpoint


def _check_own(path: Path, content: object, kind: Kind) -> dict[str, Any]:
    missing = [key for key in _KEYS if key not in content] if isinstance(content, dict) else list(_KEYS)
    if missing or not isinstance(content, dict):
        raise ValueError(f"{path}: not a checkpoint of a {kind.what} ({', '.join(missing)} missing)")

    def is_task(found: object, place: str) -> str | None:
        return None if found == kind.task else f"{place}: {kind.task} expected: give a checkpoint of a {kind.what}"

    parameters = at_least({"task": is_task, "config": PRIMITIVES, **kind.parameters}, kind.others)
    fault = foreign_tensor(content) or first_fault(parameters, content["hyper_parameters"], "hyper_parameters")
    if fault is None and content["color_space"] != kind.color_space:
        fault = f"color_space: {kind.color_space} expected"
    if fault is not None:
        raise ValueError(f"{path}: {fault}")
    with loading.errors_name(path):
        kind.options.from_dict(dict(content["hyper_parameters"]["config"]))
    return content
