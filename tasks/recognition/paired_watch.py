"""How well faces of people who are not trained on are known again at a low resolution, at every validation."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback

from datasets import EvaluationViews
from engine.callbacks import Patience
from engine.guard import NonFiniteError
from evaluation import PairedViews, paired_views
from nets import Backbone
from options.names import ONLY_DATASET
from tasks.embedding import embed_pixels
from tasks.recognition.paired_nets import PairedNets
from transforms import to_tensor

logger = logging.getLogger(__name__)
AUC = "lr_hr_auc"
PAIRED = "paired_mean"
_NONE = -1.0  # no validation has been


def watch_names(views: Mapping[str, EvaluationViews]) -> list[str]:
    """Return the names under which a validation logs what it sees of these; which there are follows from the labels."""
    names = []
    for name, seen in views.items():
        rows = np.random.default_rng(0).normal(size=(2, len(seen.labels), 8))
        names += list(_named(name, paired_views(rows[0], rows[1], seen.labels)))
    return names


class PairedWatch(Callback):
    """Log LR-HR verification and identification on people held out, before the first step and at every validation.

    `val_lr_hr_auc`, `val_lr_hr_rank1`, `val_hr_hr_accuracy`, `val_paired_mean` and the other figures of
    `PairedViews.figures`; of one of several sets `val_<set>_lr_hr_auc` and so on. All ranks have the same figures. What
    is wrong with the network is said in the log, and at the end whether the training has gained anything.

    The data module must have `watched`, views by the name of their set; the module `model` and `beside`.
    """

    def __init__(self) -> None:
        self._start: dict[str, PairedViews] = {}
        self._areas: dict[str, list[float]] = {}  # under the curve: of the start, and the best since

    def state_dict(self) -> dict[str, Any]:
        """Return what the end of the run is compared with."""
        return {"areas": self._areas}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take it."""
        self._areas = dict(state_dict["areas"])

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Look at the network as it was loaded: that is epoch 0."""
        if trainer.global_step:
            return
        for name, seen in _watched(trainer).items():
            self._start[name] = found = _look(trainer, module, seen)
            self._areas[name] = [found.lr_hr.auc or 0.0, _NONE]
            module.log_now(_named(name, found), 0)  # type: ignore[operator]  # a TrainingModule
            logger.info("before training, %s", _text(name, found))

    def on_validation_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Look at the network as it is validated."""
        for name, seen in _watched(trainer).items():
            found = _look(trainer, module, seen)
            figures = _named(name, found)
            module.log_dict(figures, logger=False)
            module.log_now(figures, trainer.global_step)  # type: ignore[operator]  # a TrainingModule
            for warning in found.warnings(self._start.get(name)):
                logger.warning("%s", warning)
            if name in self._areas:
                self._areas[name][1] = max(self._areas[name][1], found.lr_hr.auc or 0.0)

    def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Say whether the training has gained anything."""
        best = {_metric(name, AUC): area for name, (_, area) in self._areas.items()}
        for metric, start in self.unhelped().items():
            logger.warning(
                "%s: the training did not help: it was %.4f before the first step, and %.4f at best since",
                metric, start, best[metric],
            )  # fmt: skip

    def unhelped(self) -> dict[str, float]:
        """Return the areas under the curve that were never larger than before the first step, with what they were."""
        return {_metric(name, AUC): start for name, (start, best) in self._areas.items() if _NONE < best <= start}


def unhelped(trainer: pl.Trainer) -> dict[str, float]:
    """Return the metrics of a run that were never larger than before its first step, with what they were."""
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]  # Lightning does not declare it
    watching = (each for each in callbacks if isinstance(each, PairedWatch | Patience))
    return {metric: value for each in watching for metric, value in each.unhelped().items()}


def _watched(trainer: pl.Trainer) -> dict[str, EvaluationViews]:
    views: dict[str, EvaluationViews] = trainer.datamodule.watched  # type: ignore[attr-defined]  # Lightning attaches it
    return views


def _look(trainer: pl.Trainer, module: pl.LightningModule, views: EvaluationViews) -> PairedViews:
    backbone, beside = module.model, module.beside
    assert isinstance(backbone, Backbone) and isinstance(beside, PairedNets)
    hr = embed_pixels(trainer, backbone, views.hr, to_tensor)
    lr = embed_pixels(trainer, backbone, views.lr, beside.enlarged)
    if not torch.isfinite(hr).all() or not torch.isfinite(lr).all():
        raise NonFiniteError(f"validation after step {trainer.global_step}: embeddings of people held out are NaN")
    return paired_views(hr.cpu().numpy(), lr.cpu().numpy(), views.labels)


def _named(name: str, found: PairedViews) -> dict[str, float]:
    """Return the figures that there are, by the names of their metrics."""
    return {_metric(name, figure): float(value) for figure, value in found.figures().items() if value is not None}


def _metric(name: str, figure: str) -> str:
    return f"val_{figure}" if name in ("", ONLY_DATASET) else f"val_{name}_{figure}"


def _text(name: str, found: PairedViews) -> str:
    figures = _named(name, found)
    chosen = (AUC, "lr_hr_rank1", "hr_hr_accuracy", PAIRED, "lr_hr_impostor_mean")
    return ", ".join(f"{_metric(name, each)} {figures[_metric(name, each)]:.4f}" for each in chosen)
