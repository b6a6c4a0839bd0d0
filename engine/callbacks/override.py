"""What `--override` changes in the optimizer and the schedule that come with a checkpoint."""

from __future__ import annotations

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback
from torch.optim.lr_scheduler import LambdaLR

from engine import optim
from options.engine import EngineOptions
from options.overrides import BETWEEN_EPOCHS


class OverriddenNumbers(Callback):
    """Put the numbers of the options in the place of those that a checkpoint keeps with the optimizer's state."""

    def __init__(self, options: EngineOptions) -> None:
        self._options = options

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Change rate, momentum and weight decay, and go on in the schedule at the same epoch."""
        c, scheduler = self._options, trainer.lr_scheduler_configs[0].scheduler
        assert isinstance(scheduler, LambdaLR)
        steps = scheduler.last_epoch
        if BETWEEN_EPOCHS & {word.partition("=")[0] for word in c.override}:  # an epoch has another number of steps
            steps = round(trainer.current_epoch * int(trainer.estimated_stepping_batches) / c.epochs)
        hyper = {"lr": c.lr, "momentum": c.momentum, "weight_decay": c.weight_decay}
        optim.restart(trainer.optimizers[0], scheduler, hyper, steps)
