"""The best checkpoint of a run, also of one whose folder was moved, and the end of a run that gets no better."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback, ModelCheckpoint
from pytorch_lightning.trainer.states import TrainerFn

from engine.internals import save_best_now, validate_now

logger = logging.getLogger(__name__)

BEST = "best.ckpt"


class BestCheckpoint(ModelCheckpoint):
    """Lightning's ModelCheckpoint, except that it remembers its best score wherever its folder lies now."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the state of a run that may have been elsewhere when it was saved."""
        folder = Path(self.dirpath or "")

        def here(path: str) -> str:
            return str(folder / Path(path).name) if path else path

        paths = ("best_model_path", "kth_best_model_path", "last_model_path")
        moved = {name: here(state_dict[name]) for name in paths}
        models = {here(path): score for path, score in state_dict["best_k_models"].items()}
        super().load_state_dict({**state_dict, **moved, "best_k_models": models, "dirpath": self.dirpath})


class Patience(Callback):
    """End a run whose monitored metric, the larger the better, has not grown for some validations.

    The weights that a run begins with are validated before its first step, as step 0 of metrics.csv, and may stay the
    best: `best.ckpt` then holds them, and the log says that training did not help. The run ends after the epoch in
    which its patience does.

    Args:
        monitor: name of the metric.
        patience: validations without a larger value, >= 1.
        best: what keeps the best checkpoint; None: nothing does.
    """

    state_key = "Patience"

    def __init__(self, monitor: str, patience: int, best: ModelCheckpoint | None = None) -> None:
        self._monitor, self._patience, self._checkpoint = monitor, patience, best
        self._best: float | None = None
        self._best_step = self._waited = 0

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Validate what is there before the first step; a run whose patience has ended does not go on."""
        trainer.should_stop = self._waited >= self._patience
        if trainer.global_step == 0 and self._best is None:
            validate_now(trainer)
            if self._checkpoint is not None:
                save_best_now(self._checkpoint, trainer)

    def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Compare with the best so far.

        Raises:
            ValueError: if nothing was logged under the metric's name.
        """
        if trainer.state.fn != TrainerFn.FITTING:
            return
        if self._monitor not in trainer.callback_metrics:
            raise ValueError(f"--patience: no metric is called {self._monitor!r}; give another --monitor")
        value = float(trainer.callback_metrics[self._monitor])
        if self._best is None or value > self._best:
            self._best, self._best_step, self._waited = value, trainer.global_step, 0
        else:
            self._waited += 1

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """End the run where its patience has."""
        if self._waited >= self._patience:
            logger.info(
                "--patience %d: %s has been no larger than %.6g, that of step %d, for %d validations: the run ends",
                self._patience, self._monitor, self._best, self._best_step, self._waited,
            )  # fmt: skip
            trainer.should_stop = True

    def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Say so if nothing was better than what the run began with."""
        for monitor in self.unhelped():
            logger.warning("training did not help: %s was largest before the first step", monitor)

    def unhelped(self) -> dict[str, float]:
        """Return the monitored metric with its value before the first step, where it has never been larger."""
        return {self._monitor: self._best} if self._best is not None and self._best_step == 0 else {}

    def state_dict(self) -> dict[str, Any]:
        """Return what a run goes on with."""
        return {"best": self._best, "best_step": self._best_step, "waited": self._waited}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take it."""
        self._best, self._best_step, self._waited = (state_dict[name] for name in ("best", "best_step", "waited"))
