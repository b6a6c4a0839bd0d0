"""Checkpoints of detectors in training read back to go on from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cli.runs import checkpoints
from config import DetectionConfig
from models import loading
from models.checkpoint_rules import state_rules
from ops import boxes
from tasks.detection.data import DetectionData
from tasks.detection.module import TASK, DetectorTraining

DATA = DetectionData.__qualname__


def read_to_resume(path: str | Path) -> dict[str, Any]:
    """Return a checkpoint of a detector; see `cli.runs.checkpoints.read_to_resume`.

    Raises:
        ValueError: as there; also if its priors are stated otherwise than its options have them.
    """
    checkpoint = checkpoints.read_to_resume(path, KIND)
    parameters = checkpoint["hyper_parameters"]
    sizes = DetectionConfig.from_dict(dict(parameters["config"])).prior_sizes()
    if parameters["min_sizes"] != [list(level) for level in sizes] or parameters["steps"] != list(boxes.STEPS):
        raise ValueError(f"{path}: hyper_parameters: min_sizes and steps are not those of its options")
    return checkpoint


def check_resumed(
    path: str, checkpoint: Mapping[str, Any], config: DetectionConfig, data: DetectionData, teacher: str | None
) -> None:
    """Refuse to go on as another detector, with other photographs or from another teacher.

    Raises:
        ValueError: one line with the file and what is expected.
    """
    parameters = checkpoint["hyper_parameters"]
    if (arch := parameters["config"]["arch"]) != config.arch:
        raise ValueError(
            f"--override arch: {path} holds {arch}, whose weights do not fit {config.arch}; start a new run"
        )
    if parameters.get("names", data.names) != data.names:
        raise ValueError(
            f"{path}: was trained on photographs of other names or in another order than these; resume with the labels"
            " of that run"
        )
    if teacher is not None and parameters.get("teacher", teacher) != teacher:
        raise ValueError(f"{path}: learned from another detector than --teacher {config.teacher}; give that one")
    with loading.errors_name(Path(path)):
        data.build_sampler(rank=0).load_state_dict(checkpoint[DATA])


KIND = checkpoints.Kind(
    TASK, "detector's training", "bgr", DetectionConfig, {"min_sizes": [[0.0, 0.0]] * 3, "steps": [0, 0, 0]},
    {"names": "", "teacher": ""}, lambda parameters: DetectorTraining(parameters["config"]),
    lambda module: state_rules(module.state_dict()), DATA,
)  # fmt: skip
