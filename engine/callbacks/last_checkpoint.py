"""The checkpoint that a run goes on from: written at the end of every epoch, every so many steps, and on a signal."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Checkpoint

from engine.callbacks.agreement import StopAgreement
from engine.checkpoint_file import keep_copy
from engine.files import WriteFailures, outlived
from engine.signals import Stopped, StopSignals

logger = logging.getLogger(__name__)

LAST = "last.ckpt"
PREVIOUS = "last.ckpt.previous"

Progress = dict[str, Any]


class LastCheckpoint(Checkpoint):
    """Keep `last.ckpt` and the one before it, and stop the run where it can be resumed exactly.

    A checkpoint is taken between optimizer steps: when the first batch of the next step is at hand, and everything that
    belongs to the step before is done, a validation included; or at the end of an epoch, when that is done. A signal
    during a validation abandons it: the checkpoint then says that it is due. Lightning itself would pass over the end
    of an epoch in a run that is resumed after its last step, so no checkpoint is taken there.

    The ranks stop at the same step, whichever of them got the signal.

    Args:
        folder: the run folder, None on the ranks that write nothing.
        stop: receives the signals.
        failures: tells whether a checkpoint could be written.
        every_n_steps: optimizer steps between two checkpoints within an epoch; 0: none there.
        keep_every_n_epochs: epochs between two checkpoints that are kept, as `epoch_<number from 0>.ckpt`; 0: none.
    """

    def __init__(
        self,
        folder: Path | None,
        stop: StopSignals,
        failures: WriteFailures,
        every_n_steps: int = 0,
        keep_every_n_epochs: int = 0,
    ) -> None:
        self._folder = folder
        self._stop = stop
        self._failures = failures
        self._every_n_steps = every_n_steps
        self._keep_every_n_epochs = keep_every_n_epochs
        self._agreement: StopAgreement | None = None
        self._saved_step = 0  # before the first step there is nothing to save
        self._last_is_whole = False
        self._place: str | None = None  # where a checkpoint is being taken, if not at the end of an epoch
        self._polls_in_validation = 0

    # ---------------------------------------------------------------- where training may stop

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Begin to watch for signals; a run that goes on from last.ckpt need not write it at once."""
        self._agreement = StopAgreement()
        self._last_is_whole = trainer.ckpt_path is not None and Path(trainer.ckpt_path).name == LAST
        self._saved_step = trainer.global_step if self._last_is_whole else 0
        self._stop.defer()

    def on_train_batch_start(self, trainer: pl.Trainer, module: pl.LightningModule, batch: Any, batch_idx: int) -> None:
        """Between two optimizer steps, write a checkpoint if it is due or a signal came.

        Raises:
            Stopped: on all ranks, once a signal came to any of them.
        """
        if batch_idx % trainer.accumulate_grad_batches:
            return
        due = self._every_n_steps > 0 and trainer.global_step % self._every_n_steps == 0
        self._save_or_stop(trainer, due, "between steps")

    def on_validation_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Find the batches in which all ranks take part: the pairs need not divide evenly."""
        if self._is_training(trainer):
            assert self._agreement is not None
            self._polls_in_validation = self._agreement.least(int(sum(trainer.num_val_batches)))

    def on_validation_batch_start(
        self, trainer: pl.Trainer, module: pl.LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Give a validation up if a signal came.

        Raises:
            Stopped: on all ranks, once a signal came to any of them.
        """
        if self._is_training(trainer) and batch_idx < self._polls_in_validation:
            self._save_or_stop(trainer, False, "before validation")

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Write the checkpoint of the epoch, and keep it if it is one to keep.

        Raises:
            Stopped: on all ranks, once a signal came to any of them.
        """
        self._save(trainer, None)
        every = self._keep_every_n_epochs
        if every and (trainer.current_epoch + 1) % every == 0 and LAST not in self._failures.missing:
            self._keep(f"epoch_{trainer.current_epoch:03d}.ckpt")
        assert self._agreement is not None
        if number := self._agreement.ask(self._stop.received):
            raise Stopped(number, trainer.global_step)

    def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """From here on there is nothing to save."""
        self._stop.at_once()

    def _is_training(self, trainer: pl.Trainer) -> bool:
        return self._agreement is not None and trainer.state.fn == "fit"

    def _save_or_stop(self, trainer: pl.Trainer, due: bool, place: str) -> None:
        assert self._agreement is not None
        stop = self._agreement.poll(self._stop.received)
        if (stop or due) and trainer.global_step != self._saved_step:
            self._save(trainer, place)
            stop = stop or self._agreement.ask(self._stop.received)  # writing takes long enough for a signal to come
        if stop:
            raise Stopped(stop, trainer.global_step)

    # ---------------------------------------------------------------- what is written

    def on_save_checkpoint(self, trainer: pl.Trainer, module: pl.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Let Lightning's counters say exactly where training is; this is called for every checkpoint, the best too."""
        for run_logger in trainer.loggers:
            run_logger.save()  # the rows of metrics.csv that a resumed run will not write again
        if self._place is not None:
            loops = checkpoint["loops"]["fit_loop"]
            _settle(loops["epoch_loop.batch_progress"])
            validation_is_due = self._place == "before validation"
            if not validation_is_due:
                # Lightning says this of the batch at hand, which is not counted, and would pass over it.
                loops["epoch_loop.batch_progress"]["is_last_batch"] = False
            _settle_validation(loops["epoch_loop.val_loop.batch_progress"], validation_is_due)

    def _save(self, trainer: pl.Trainer, place: str | None) -> None:
        if self._last_is_whole:
            self._keep(PREVIOUS)
        self._place = place
        try:
            trainer.save_checkpoint(LAST if self._folder is None else self._folder / LAST)
        finally:
            self._place = None
        self._saved_step = trainer.global_step
        self._last_is_whole = self._last_is_whole or LAST not in self._failures.missing

    def _keep(self, name: str) -> None:
        if self._folder is not None:
            with outlived(self._failures, name):
                keep_copy(self._folder / LAST, self._folder / name)


def _settle(progress: Progress) -> None:
    """Make all counters of batches say that those which are processed are completed and no other was begun."""
    for counters in (progress["total"], progress["current"]):
        counters["ready"] = counters["started"] = counters["completed"] = counters["processed"]


def _settle_validation(progress: Progress, is_due: bool) -> None:
    """Make the counters say that no batch of a validation was seen and whether one is to be seen now."""
    total = progress["total"]
    total["processed"] = total["completed"]
    # Lightning knows a validation that was begun by one more batch started than processed.
    total["ready"] = total["started"] = total["completed"] + int(is_due)
    if is_due:
        progress["current"] = dict.fromkeys(progress["current"], 0)
        progress["is_last_batch"] = False
