"""Stages of a run: which parameters are trained when, decided by the number of the step alone."""

from __future__ import annotations

import logging
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.strategies import DDPStrategy
from torch import nn

from engine import optim
from engine.composite import CompositeOptimizer
from options.engine import EngineOptions
from options.words.patterns import Stage

logger = logging.getLogger(__name__)


class StageSwitch(Callback):
    """Let each stage train its parameters and no others, from its first step on.

    What a stage does not train has no gradient, and parts of the module that are frozen whole are in eval mode. What it
    trains and the stage before did not begins without momentum and moments; what both train keeps them. All of it
    follows from the number of the step, so a run that goes on, at a switch too, needs nothing else to be saved.

    DDP counts the gradients of the parameters that were trainable when it was built, and waits for all of them: it is
    built anew at a switch, at the same step on every rank.

    Args:
        options: of the run, with stages.
    """

    def __init__(self, options: EngineOptions) -> None:
        self._stages: tuple[Stage, ...] = options.run_stages
        self._starts: tuple[int, ...] = ()
        self._rates: dict[str, optim.Rates] = {}
        self._modes: list[tuple[nn.Module, bool]] = []
        self._number = -1

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Begin, or go on, with the stage of the step at hand."""
        trained = [name for name, parameter in module.named_parameters() if parameter.requires_grad]
        self._rates = optim.stage_rates(trained, self._stages)
        self._starts = optim.stage_starts(self._stages, int(trainer.estimated_stepping_batches))
        self._modes = [(part, part.training) for part in module.modules()]
        self._number = -1
        self._follow(trainer, module)

    def on_train_batch_start(self, trainer: pl.Trainer, module: pl.LightningModule, batch: Any, batch_idx: int) -> None:
        """Switch before the first batch of a stage."""
        self._follow(trainer, module)

    def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Leave the module as it was found."""
        for name, parameter in module.named_parameters():
            parameter.requires_grad_(name in self._rates or parameter.requires_grad)
        self._restore_modes()

    def _follow(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        number = optim.SchedulePlan(0, starts=self._starts).stage_at(trainer.global_step)
        if number == self._number:
            return
        self._number = number
        named = {name: parameter for name, parameter in module.named_parameters() if name in self._rates}
        now = {name for name in named if self._rates[name][number] != 0}
        for name, parameter in named.items():
            parameter.requires_grad_(name in now)
            parameter.grad = None
        self._restore_modes()
        frozen = {id(parameter) for name, parameter in named.items() if name not in now}
        optim.rest_frozen(module, frozen)
        if trainer.global_step == self._starts[number] > 0:
            fresh = [named[name] for name in now if self._rates[name][number - 1] == 0]
            composite = trainer.optimizers[0]
            assert isinstance(composite, CompositeOptimizer)
            optim.forget(composite.whole, fresh)
        strategy = trainer.strategy
        if isinstance(strategy, DDPStrategy):
            strategy.model = strategy.lightning_module  # the old one lets go of the parameters before the next is built
            strategy.configure_ddp()
        logger.info("stage %d of %d: %s", number + 1, len(self._stages), optim.describe_frozen(module))

    def _restore_modes(self) -> None:
        for part, is_training in self._modes:
            part.training = is_training
