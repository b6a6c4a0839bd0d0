"""A picture of what is drawn of each of several data sets, and how easy it is, over the epochs."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

from datasets import MixtureBatchSampler
from engine.files import WriteFailures, side_file
from engine.loggers.wandb_run import log_picture

logger = logging.getLogger(__name__)
FILE = "mixture.png"
EASE = "ease (CRC-32)"  # of the facts of the data of a curriculum of images


class MixturePicture(Callback):
    """Draw `mixture.png` at the start of a run of several data sets, or with a curriculum, and after each epoch.

    It has the planned share of each set in every epoch, and that of the images drawn so far; with a curriculum of
    images their mean ease in each epoch and that of all images. What was drawn follows from the plan; the ease of
    epochs that are over lies in the checkpoint.

    Args:
        folder: the run folder, None on the ranks that write nothing.
        failures: told when the picture cannot be written; None: that is an error.
    """

    def __init__(self, folder: Path | None, failures: WriteFailures | None = None) -> None:
        self._path = None if folder is None else Path(folder) / FILE
        self._failures = failures
        self._ease: dict[int, float] = {}  # mean of the images drawn, by epoch
        self._checksum: object = None  # of the ease of all images

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Draw what is planned, and what was drawn before a run that goes on; warn where its plan is another one."""
        checksum = trainer.datamodule.facts().get(EASE)  # type: ignore[attr-defined]  # Lightning attaches it
        if self._checksum not in (None, checksum):
            logger.warning(
                "the images are not as hard as they were when the run was left: the rest of its epoch is drawn by "
                "another plan"
            )
        self._checksum = checksum
        self._draw(trainer, trainer.current_epoch)

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Draw what the epoch held."""
        sampler = trainer.datamodule.train_sampler  # type: ignore[attr-defined]  # Lightning attaches it
        if (ease := sampler.mean_ease(drawn=True)) is not None:
            self._ease[trainer.current_epoch] = ease
        self._draw(trainer, trainer.current_epoch + 1)

    def state_dict(self) -> dict[str, Any]:
        """Return the mean ease of each epoch that is over, and what the plan follows."""
        return {"ease": dict(self._ease), "checksum": self._checksum}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore it."""
        self._ease, self._checksum = dict(state_dict["ease"]), state_dict.get("checksum")

    def _draw(self, trainer: pl.Trainer, done: int) -> None:
        """Draw the picture after so many epochs."""
        if self._path is None:
            return
        sampler: MixtureBatchSampler = trainer.datamodule.train_sampler  # type: ignore[attr-defined]  # likewise
        epochs = range(max(done, trainer.max_epochs or 0))
        planned = np.array([sampler.shares(epoch) for epoch in epochs], np.float64)
        counts = np.array([sampler.drawn(epoch) for epoch in range(done + 1)], np.float64)
        drawn = np.diff(counts, axis=0)
        with side_file(self._failures, FILE):
            from evaluation.report import plots

            plots.mixture(
                self._path,
                dict(zip(sampler.names, (planned / planned.sum(1, keepdims=True)).T, strict=True)),
                dict(zip(sampler.names, (drawn / drawn.sum(1, keepdims=True)).T, strict=True)),
                self._ease,
                sampler.mean_ease(),
            )
            log_picture(trainer, "mixture", self._path)
