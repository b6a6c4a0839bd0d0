"""A picture of what the network is really fed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
from numpy.typing import NDArray
from pytorch_lightning.callbacks import Callback

from datasets import Sample
from engine.files import WriteFailures, side_file
from engine.loggers.wandb_run import log_picture

NUM_SAMPLES = 32
Cells = tuple[NDArray[np.uint8], NDArray[np.uint8] | None, list[str]]


class SampleSheet(Callback):
    """Draw the first training images of a run into `samples.png`: with masks and labels, or both views side by side.

    Args:
        folder: the run folder, None on the ranks that write nothing.
        failures: told when the picture cannot be written; None: that is an error.
    """

    columns = 8

    def __init__(self, folder: Path | None, failures: WriteFailures | None = None) -> None:
        self._failures = failures
        self._path = None if folder is None else Path(folder) / "samples.png"

    def on_train_batch_start(self, trainer: pl.Trainer, module: pl.LightningModule, batch: Any, batch_idx: int) -> None:
        """Draw the sheet from the very first batch; a resumed run keeps the one it has."""
        if self._path is None or batch_idx or trainer.current_epoch or self._path.exists():
            return
        with side_file(self._failures, self._path.name):
            from evaluation.report import plots

            plots.sample_sheet(self._path, *self.cells(trainer, batch), columns=self.columns)
            log_picture(trainer, "samples", self._path)

    def cells(self, trainer: pl.Trainer, batch: Any) -> Cells:
        """Return images, masks if there are any, and captions of a batch."""
        assert isinstance(batch, Sample)
        images = np.asarray(batch.image[:NUM_SAMPLES].cpu())
        if batch.second is None:
            source = trainer.datamodule.source  # type: ignore[attr-defined]  # Lightning attaches it
            masks = None if batch.visibility is None else np.asarray(batch.visibility[:NUM_SAMPLES].cpu())
            shown = zip(batch.label.tolist(), batch.dataset_id.tolist(), strict=True)
            return images, masks, [f"{label}: {source(n).class_names[label]}" for label, n in shown][:NUM_SAMPLES]
        both = np.concatenate([images, np.asarray(batch.second.image[:NUM_SAMPLES].cpu())], axis=2)
        pairs = zip(batch.index.tolist(), batch.second.index.tolist(), strict=True)
        return both, None, [f"{a}" if a == b else f"{a} and {b}" for a, b in pairs][:NUM_SAMPLES]
