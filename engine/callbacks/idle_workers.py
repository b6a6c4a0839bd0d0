"""The workers of a validation end with it."""

from __future__ import annotations

import gc

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

from engine.internals import end_validation_workers


class IdleWorkers(Callback):
    """Free what a validation leaves behind.

    Lightning keeps its workers, each with the memory of the whole process that it was forked from, until the next
    validation starts others. And it leaves some megabytes in reference cycles, which Python would collect much later.
    """

    def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """End the workers; the next validation starts its own anyway."""
        end_validation_workers(trainer)
        gc.collect()
