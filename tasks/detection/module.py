"""The trainer of detectors: MultiBox over priors, and what another detector teaches, as a task of the engine."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor

import losses
import nets
import transforms
from config import DetectionConfig
from datasets import DetectionBatch
from engine.module import Step, Terms, TrainingModule, enter_check_mode
from losses import MultiBoxLosses
from ops import boxes, gather, world_size
from tasks.detection.data import DetectionData
from tasks.detection.figures import Validation, figures

logger = logging.getLogger(__name__)
TASK = "detection"  # what a checkpoint's hyper-parameters call it


class DetectorTraining(TrainingModule):
    """A detector that learns boxes, scores and points at its priors.

    Losses are normalized by the faces of all ranks, so that two ranks learn what one process would of their batch.

    Args:
        config: every option of the run, as `DetectionConfig.to_dict()` gives it.
        names: a digest of the names of the photographs, if it is known.
        teacher: a digest of the teacher's weights, if there is one.
    Attributes:
        detector: what is trained.
        last_figures: of the last validation.
    """

    def __init__(self, config: Mapping[str, Any], names: str | None = None, teacher: str | None = None) -> None:
        c = DetectionConfig.from_dict(dict(config))
        super().__init__(c)
        known = {"names": names, "teacher": teacher}
        self.save_hyperparameters(
            {
                "task": TASK,
                "config": dict(config),
                "min_sizes": [list(sizes) for sizes in c.prior_sizes()],
                "steps": list(boxes.STEPS),
                **{name: value for name, value in known.items() if value is not None},
            }
        )
        self.detector = nets.build_detector(c.arch)
        self.validation = Validation()
        self.last_figures: dict[str, float] = {}
        self._priors: dict[int, Tensor] = {}
        self._teacher: tuple[nets.Detector, ...] = ()  # in a tuple it is no part of this module
        if c.check_mode:
            enter_check_mode(self)
        self.check_patterns()

    @property
    def config(self) -> DetectionConfig:
        """Return the options of the run."""
        return cast(DetectionConfig, self.options)

    @property
    def _type(self) -> torch.dtype:
        return cast(torch.dtype, self.dtype)  # Lightning allows its name too

    def learn_from(self, teacher: nets.Detector) -> None:
        """Take a detector that is asked for its opinion; it is in no state dict."""
        self._teacher = (teacher.requires_grad_(False).eval(),)

    def on_fit_start(self) -> None:
        """Take the teacher to where the student is."""
        for teacher in self._teacher:
            teacher.to(self.device, self._type)

    def priors(self, side: int) -> Tensor:
        """Return the priors [P, 4] of square images of this side, in the type of the weights."""
        known = self._priors.get(side)
        if known is None or known.device != self.device:
            known = boxes.priors(side, side, self.config.prior_sizes()).to(self.device, self._type)
            self._priors[side] = known
        return known

    # ---------------------------------------------------------------- training

    def forward_terms(self, batch: DetectionBatch, step: Step) -> Terms:
        """Return the losses of a batch, each as this rank's share of that of all ranks."""
        c = self.config
        images = self._input(batch)
        if c.attention_weight:
            maps = self.detector.maps(images)
            detections = self.detector.heads(maps)
        else:
            detections = self.detector(images)
        found = losses.multibox_loss(
            detections, self.priors(images.shape[-1]), targets_of(batch, self._type), c.match_overlap, c.negatives,
            count_all=_over_ranks,
        )  # fmt: skip
        terms = self._weighed(found, 1.0, "")
        if c.has_teacher:
            (teacher,) = self._teacher
            with torch.no_grad():
                lesson = teacher.maps(images)
                answer = teacher.heads(lesson)
            if c.teacher_weight:
                told = losses.detector_distillation(detections, answer, count_all=_over_ranks)
                terms |= self._weighed(told, c.teacher_weight, "teacher_")
            if c.attention_weight:
                apart = [losses.attention_transfer(*pair) for pair in zip(maps, lesson, strict=True)]
                terms["attention"] = (c.attention_weight, torch.stack(apart).mean())
        return Terms(terms, {})

    def _input(self, batch: DetectionBatch) -> Tensor:
        return nets.detector_input(transforms.to_tensor(batch.images)).to(self._type)

    def _weighed(self, found: MultiBoxLosses, weight: float, prefix: str) -> dict[str, tuple[float, Tensor]]:
        """Return the losses by name with their weights; sums over ranks become means, which is what DDP takes."""
        c, ranks = self.config, world_size()
        weights = MultiBoxLosses(c.box_weight, c.score_weight, c.landmark_weight)  # type: ignore[arg-type]
        pairs = zip(MultiBoxLosses._fields, weights, found, strict=True)
        return {f"{prefix}{name}": (weight * cast(float, own), ranks * loss) for name, own, loss in pairs}

    # ---------------------------------------------------------------- validation

    def on_validation_epoch_start(self) -> None:
        """Forget the validation before."""
        self.validation.clear()

    def validation_step(self, batch: DetectionBatch, batch_idx: int) -> None:
        """Find the faces of some photographs."""
        self.validation.add(batch, self.detector(self._input(batch)), self.priors(batch.images.shape[1]))

    def on_validation_epoch_end(self) -> None:
        """Judge what all ranks found, and log it under `val_`."""
        if self.config.fast_dev_run:
            return  # a single batch of the photographs
        data: DetectionData = self.trainer.datamodule  # type: ignore[attr-defined]  # Lightning attaches it
        step = self.trainer.global_step
        self.last_figures = figures(self.validation.gather(data.num_validated, f"val after step {step}"))
        self.log_dict(self.last_figures, logger=False)
        self.log_now(self.last_figures, step)
        if self.trainer.is_global_zero:
            text = ", ".join(f"{name.removeprefix('val_')} {value:.4f}" for name, value in self.last_figures.items())
            logger.info(
                "step %d, %d photographs at %d pixels: %s", step, data.num_validated, self.config.val_size, text
            )

    # ---------------------------------------------------------------- checkpoint

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store the color order that the weights expect beside them."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["color_space"] = "bgr"


def targets_of(batch: DetectionBatch, dtype: torch.dtype) -> list[Tensor]:
    """Return what `losses.multibox_loss` learns of each view: [T, 15], relative; ignored faces have the label 0.

    A face of which a point is not labeled counts as one without points.
    """
    side = batch.images.shape[1]
    targets = []
    for corners, points, ignored in zip(batch.boxes, batch.points, batch.ignored, strict=True):
        flat = points.flatten(1)
        labels = torch.where(flat.isnan().any(dim=1), -1.0, 1.0).masked_fill(ignored, 0.0)
        row = torch.cat([corners, flat.nan_to_num(0.0)], dim=1) / side
        targets.append(torch.cat([row, labels[:, None]], dim=1).to(dtype))
    return targets


def _over_ranks(count: Tensor) -> Tensor:
    return gather(count[None]).sum(dim=0)
