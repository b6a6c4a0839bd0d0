"""Checkpoints of pretraining read back to go on from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from cli.runs import checkpoints
from config import PretrainingConfig
from models import loading
from models.checkpoint_rules import state_rules
from ops import Rule, first_fault
from tasks.moco.data import PretrainingData
from tasks.moco.module import TASK, Pretrainer

DATA = PretrainingData.__qualname__
_QUEUE = "contrast.queue."


def read_to_resume(path: str | Path) -> dict[str, Any]:
    """Return a checkpoint of a pretraining; see `cli.runs.checkpoints.read_to_resume`."""
    return checkpoints.read_to_resume(path, KIND)


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


def _count(found: object, place: str) -> str | None:
    fault = first_fault(0, found, place)
    return fault or (None if isinstance(found, int) and found >= 1 else f"{place}: 1 or more expected")


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


KIND = checkpoints.Kind(
    TASK, "pretraining", "rgb", PretrainingConfig, {"num_images": _count}, {"images": ""},
    lambda parameters: Pretrainer(parameters["config"], parameters["num_images"]), _state_rules, DATA,
)  # fmt: skip
