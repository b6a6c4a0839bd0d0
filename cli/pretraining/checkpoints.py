"""Checkpoints of pretraining read back to go on from; nothing in a file is executed or believed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cli import checkpoint_form
from config import PretrainingConfig
from models import loading
from models.checkpoint_rules import state_rules
from ops import Rule, at_least, each, either, first_fault, foreign_tensor, named
from tasks.moco.data import PretrainingData
from tasks.moco.module import TASK, Pretrainer

DATA = PretrainingData.__qualname__
_KEYS = ("state_dict", "hyper_parameters", "color_space")
_QUEUE = "contrast.queue."


def read_to_resume(path: str | Path) -> dict[str, Any]:
    """Return a checkpoint of a pretraining as plain data, tensors on the CPU; a run can go on from it.

    Raises:
        FileNotFoundError: if there is no such file.
        DamagedCheckpointError: if it cannot be read or its checksum is wrong.
        ValueError: if it was not written by a pretraining, or something in it is not as one writes it; one line with
            the file and the place in it.
    """
    path = Path(path)
    checkpoint = _check_own(path, loading.read_content(path))
    parameters = checkpoint["hyper_parameters"]
    with loading.errors_name(path), torch.device("meta"):
        template = Pretrainer(parameters["config"], parameters["num_images"])
    rules = at_least({"state_dict": _state_rules(template)})
    if fault := first_fault(rules, checkpoint, ""):
        raise ValueError(f"{path}: {fault}")

    def callbacks(is_updated: bool) -> Mapping[str, object]:
        return {"callbacks": at_least(checkpoint_form.best_rule(template.config.monitor), checkpoint_form.PATIENCE)}

    if fault := checkpoint_form.engine_fault(checkpoint, template, DATA, callbacks):
        raise ValueError(f"{path}: {fault}; a run cannot go on from it")
    return checkpoint


def check_data(path: str | Path, checkpoint: Mapping[str, Any], data: PretrainingData) -> None:
    """Refuse to go on with a checkpoint that was made with other images than these: queue and clusters know places.

    Raises:
        ValueError: one line with the file and what is expected.
    """
    parameters = checkpoint["hyper_parameters"]
    saved, remedy = parameters["num_images"], "resume with the data of that run"
    if saved != data.num_images:
        raise ValueError(f"{path}: was trained on {saved} images, but the data hold {data.num_images}; {remedy}")
    if parameters.get("images", data.images) != data.images:
        raise ValueError(f"{path}: was trained on images of other names or in another order than these; {remedy}")
    with loading.errors_name(Path(path)):
        data.check_place(checkpoint[DATA])


def _check_own(path: Path, content: object) -> dict[str, Any]:
    missing = [key for key in _KEYS if key not in content] if isinstance(content, dict) else list(_KEYS)
    if missing or not isinstance(content, dict):
        raise ValueError(f"{path}: not a checkpoint of a pretraining ({', '.join(missing)} missing)")
    primitive = either(None, False, 0.0, "")
    parameters = at_least(
        {"task": _is_task, "config": named(either(primitive, each(primitive))), "num_images": 0}, {"images": ""}
    )
    fault = foreign_tensor(content) or first_fault(parameters, content["hyper_parameters"], "hyper_parameters")
    if fault is None and content["color_space"] != "rgb":
        fault = "color_space: rgb expected"
    if fault is None and content["hyper_parameters"]["num_images"] < 1:
        fault = "hyper_parameters.num_images: 1 or more expected"
    if fault is not None:
        raise ValueError(f"{path}: {fault}")
    with loading.errors_name(path):
        PretrainingConfig.from_dict(dict(content["hyper_parameters"]["config"]))
    return content


def _is_task(found: object, place: str) -> str | None:
    return None if found == TASK else f"{place}: {TASK} expected: give a checkpoint of a pretraining"


def _state_rules(template: Pretrainer) -> dict[str, object]:
    """Return the rules for the weights, the queue and the clusters; ids lie within the data."""
    state = template.state_dict()
    images, clusters = len(template.clusters), state["clusters"]
    queue = template.contrast.queue
    ids = {
        f"{_QUEUE}images": _between(queue.images, -1, images - 1),
        f"{_QUEUE}clusters": _between(queue.clusters, -1, images - 1),
        f"{_QUEUE}pointer": _between(queue.pointer, 0, queue.size - 1),
        "clusters": _between(clusters, -1, images - 1),
        "generation": _between(template.generation, 0, 2**31),
    }
    return state_rules(state) | ids


def _between(example: Tensor, low: int, high: int) -> Rule:
    def rule(found: object, place: str) -> str | None:
        if fault := first_fault(example, found, place):
            return fault
        assert isinstance(found, Tensor)
        sound = low <= int(found.min()) and int(found.max()) <= high
        return None if sound else f"{place}: numbers from {low} to {high} expected"

    return rule
