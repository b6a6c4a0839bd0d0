"""What the program behind `main.py detect train` says of its task; cli/runs does the rest."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

import nets
from cli.detection.checkpoints import DATA, check_resumed, read_to_resume
from cli.runs import session
from config import DetectionConfig
from engine.callbacks import BEST, LAST, UnreadableList
from engine.devices import world_size
from engine.files import WriteFailures
from options.names import DETECTORS
from system.terminal import show
from tasks.detection.data import DetectionData
from tasks.detection.figures import METRICS
from tasks.detection.module import DetectorTraining
from tasks.detection.sheet import DetectionSheet

logger = logging.getLogger(__name__)


class Detection(session.Task[DetectionConfig, DetectionData, DetectorTraining]):
    """Training of a detector as `cli.runs.session` runs it."""

    program = "detect train"
    place = DATA
    fast_batch = 4

    def read(self, path: str | Path) -> dict[str, Any]:
        """Return a checkpoint that a run can go on from."""
        return read_to_resume(path)

    def check_resumed(
        self, path: str, checkpoint: Mapping[str, Any], config: DetectionConfig, data: DetectionData
    ) -> None:
        """Refuse a checkpoint of another detector, photographs or teacher."""
        teacher = _digest(_teacher(config)) if config.has_teacher else None
        check_resumed(path, checkpoint, config, data, teacher)

    def open_data(self, config: DetectionConfig) -> DetectionData:
        """Return the images, not set up."""
        return DetectionData(config, world_size(config))

    def metrics(self, data: DetectionData) -> list[str]:
        """Return the figures of which more is better, where anything is validated on."""
        return [*METRICS] if data.num_validated else []

    def build(self, config: DetectionConfig, data: DetectionData) -> DetectorTraining:
        """Return the model to train, with what it starts with and learns from."""
        begins = config.resume_from_checkpoint is None
        needs_teacher = config.has_teacher or (begins and config.start_from_teacher_body)
        if config.teacher is not None and begins and not needs_teacher:
            raise ValueError("--teacher: nothing is learned from it; give --teacher_weight or --attention_weight")
        teacher = _teacher(config) if needs_teacher else None
        digest = _digest(teacher) if teacher is not None and config.has_teacher else None
        model = DetectorTraining(config.to_dict(), data.names, digest)
        if config.start_from_model_statedict is not None:
            start = nets.load_detector(config.start_from_model_statedict)
            if start.form != model.detector.form:
                raise ValueError(
                    f"{config.start_from_model_statedict}: holds {form_name(start.form)}, whose weights do not fit"
                    f" --arch {config.arch}"
                )
            model.detector.load_state_dict(start.state_dict())
            logger.info("%s: took the weights", config.start_from_model_statedict)
        if teacher is not None and begins and config.start_from_teacher_body:
            model.detector.body.load_state_dict(teacher.body.state_dict())
            logger.info("%s: took the backbone", config.teacher)
        if teacher is not None and config.has_teacher:
            model.learn_from(teacher)
        if config.compile:
            model.detector.compile()  # in place: checkpoints keep the names of the parameters
        return model

    def callbacks(
        self, config: DetectionConfig, data: DetectionData, folder: Path | None, failures: WriteFailures
    ) -> list[pl.Callback]:
        """Return what shows the data."""
        if config.fast_dev_run:
            return []
        return [DetectionSheet(folder, failures), UnreadableList(folder, config.max_bad_fraction, failures)]

    def announce(self, config: DetectionConfig, data: DetectionData, model: DetectorTraining) -> None:
        """Log model and photographs."""
        count = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
        logger.info("model: %s, %s parameters, priors of %s pixels", config.arch, f"{count:,}", config.min_sizes)
        validated = f"validated on {data.num_validated}" if data.num_validated else "not validated"
        logger.info(
            "data: %d photographs with %d faces, %s at %d pixels; steps: %d in %d epochs",
            len(data.train_dataset), data.num_faces, validated, config.val_size, data.num_steps, config.epochs,
        )  # fmt: skip

    def tell_end(self, folder: Path) -> None:
        """Say where the detector is."""
        for name, what in ((BEST, "the detector with the best figure"), (LAST, "the last one")):
            if (folder / name).exists():
                show(f"{folder / name}: {what}")
        show(f"run folder: {folder}")


def form_name(form: nets.DetectorForm) -> str:
    """Return the name of a form, or what it is made of."""
    return next((name for name in DETECTORS if nets.DETECTORS[name] == form), str(form))


def _teacher(config: DetectionConfig) -> nets.Detector:
    """Return the detector that a run learns from; its priors are those of the run, where its file states any.

    Raises:
        ValueError, OSError: one line with the file.
    """
    path = Path(str(config.teacher))
    content = nets.read_state_dict(path).metadata.get("hyper_parameters")
    sizes = content.get("min_sizes") if isinstance(content, dict) else None
    if sizes is not None and sizes != [list(level) for level in config.prior_sizes()]:
        raise ValueError(f"{path}: its priors are of {sizes} pixels, those of --min_sizes {config.min_sizes}")
    return nets.load_detector(path)


def _digest(detector: nets.Detector) -> str:
    """Return the SHA-256 of a detector's weights."""
    digest = hashlib.sha256()
    for name, tensor in detector.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().numpy().data)
    return digest.hexdigest()


prepare = partial(session.prepare, Detection())
run = session.run
