"""A run of a task from its options to its end; `cli/training.py` has that of recognizers, which also reports."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Generic, TextIO, TypeVar

import pytorch_lightning as pl

from cli.checkpoints import newest_checkpoint
from cli.refusals import check_batches
from cli.runs.beginning import announce_machine, find_checkpoint, lock_resumed, read_whole, record, run_folder
from cli.runs.supervision import answer_signals, supervised
from config import Run, merge_for_resume
from engine import optim, runs
from engine.devices import local_ranks, settle, world_size
from engine.files import WriteFailures
from engine.loggers.tensorboard_logger import require_tensorboard
from engine.module import TrainingData, TrainingModule
from engine.signals import StopSignals
from engine.trainer import build_trainer
from options.names import NO_METRIC
from system.launch import is_main_process

logger = logging.getLogger(__name__)

Data = TypeVar("Data", bound=TrainingData)
Model = TypeVar("Model", bound=TrainingModule)


class Task(ABC, Generic[Run, Data, Model]):
    """What a program that trains says of its task.

    Attributes:
        program: its words after main.py.
        place: under which a checkpoint has the place in the data: the name of their class.
        fast_batch: images of a rank with --fast_dev_run.
    """

    program: str
    place: str
    fast_batch: int

    @abstractmethod
    def read(self, path: str | Path) -> dict[str, Any]:
        """Return a checkpoint that a run can go on from; raises as `cli.runs.checkpoints.read_to_resume`."""

    @abstractmethod
    def check_resumed(self, path: str, checkpoint: Mapping[str, Any], config: Run, data: Data) -> None:
        """Refuse to go on with a checkpoint of other data or of another model, by a ValueError."""

    @abstractmethod
    def open_data(self, config: Run) -> Data:
        """Return the data, not set up."""

    @abstractmethod
    def metrics(self, data: Data) -> list[str]:
        """Return the names that --monitor may choose."""

    @abstractmethod
    def build(self, config: Run, data: Data) -> Model:
        """Return the model of a run; generators are seeded."""

    @abstractmethod
    def callbacks(self, config: Run, data: Data, folder: Path | None, failures: WriteFailures) -> list[pl.Callback]:
        """Return the callbacks of the task."""

    @abstractmethod
    def announce(self, config: Run, data: Data, model: Model) -> None:
        """Log what is trained on what."""

    @abstractmethod
    def tell_end(self, folder: Path) -> None:
        """Say what a run has left."""


@dataclass(frozen=True)
class Session(Generic[Run, Data, Model]):
    """Everything a run needs, built and checked; `folder` and its `lock` are None on ranks that write nothing."""

    task: Task[Run, Data, Model]
    config: Run
    folder: Path | None
    datamodule: Data
    model: Model
    trainer: pl.Trainer
    stop: StopSignals
    failures: WriteFailures
    lock: TextIO | None


def prepare(
    task: Task[Run, Data, Model],
    given: Run,
    explicit: AbstractSet[str],
    argv: Sequence[str],
    stop: StopSignals | None = None,
) -> Session[Run, Data, Model]:
    """Check options and input, make the run folder and build everything.

    Args:
        task: what is trained.
        given: options of the command.
        explicit: names of those that the user gave.
        argv: the words of the command, for the record.
        stop: what receives signals; None: no signal ends the run early.
    Raises:
        ValueError, OSError: one line for the user about what is wrong with which flag or file.
    """
    log = runs.start_log(is_main_process())
    writes = is_main_process() and not given.fast_dev_run
    if given.fast_dev_run and "batch_size" not in explicit:
        given = replace(given, batch_size=task.fast_batch * world_size(given))
    found = find_checkpoint(given, newest=partial(newest_checkpoint, read=task.read))
    lock = lock_resumed(found) if writes else None
    config, checkpoint, datamodule = _open(task, found, explicit)
    pl.seed_everything(config.seed, workers=True, verbose=False)
    model = task.build(config, datamodule)
    folder = run_folder(config, checkpoint, task.place) if writes else None
    stop, failures = stop or StopSignals(), WriteFailures()
    callbacks = task.callbacks(config, datamodule, folder, failures)
    if folder is not None:
        lock = record(folder, config, ["main.py", *task.program.split(), *argv], log, failures, lock)
    _announce(task, config, folder, datamodule, model)
    trainer = build_trainer(config, folder, stop, failures, callbacks=callbacks)
    if not datamodule.num_validated:
        trainer.limit_val_batches = 0  # else Lightning warns of an empty loader
    answer_signals(stop, trainer, folder, task.program)
    return Session(task, config, folder, datamodule, model, trainer, stop, failures, lock)


def run(session: Session[Any, Any, Any]) -> int:
    """Train and return the exit code, see docs/reliability.md."""
    config, fit = session.config, session.trainer.fit
    work = partial(
        fit, session.model, datamodule=session.datamodule, ckpt_path=config.resume_from_checkpoint, weights_only=True
    )
    return supervised(session, work, session.task.tell_end, session.task.program)


def _open(
    task: Task[Run, Data, Model], given: Run, explicit: AbstractSet[str]
) -> tuple[Run, dict[str, Any] | None, Data]:
    """Return options, checkpoint and data, which fit each other."""
    config, checkpoint, saved, path = given, None, None, given.resume_from_checkpoint
    if path is not None:
        checkpoint = read_whole(task.read, path)
        options = checkpoint["hyper_parameters"]["config"]
        saved, config = type(given).from_dict(dict(options)), merge_for_resume(options, given, explicit)
        changes = check_batches(config, saved, int(checkpoint[task.place]["batches_done"]))
        for name, value in changes.items():
            logger.warning(
                "--override: %s is %s from here on; in the checkpoint it is %s", name, value, getattr(saved, name)
            )
    elif given.override:
        raise ValueError("--override changes a run that goes on: without a checkpoint give the flags themselves")
    if config.tensorboard:
        require_tensorboard()
    datamodule = task.open_data(config)
    datamodule.setup("fit")
    if config.monitor != NO_METRIC and config.monitor not in (names := task.metrics(datamodule)):
        raise ValueError(f"--monitor: no metric will be called {config.monitor!r}; choose one of {', '.join(names)}")
    if checkpoint is not None:
        task.check_resumed(str(path), checkpoint, config, datamodule)
    settled = settle(config, local_ranks(config), saved)
    datamodule.options = settled
    return settled, checkpoint, datamodule


def _announce(task: Task[Run, Data, Model], config: Run, folder: Path | None, data: Data, model: Model) -> None:
    """Log what this run is: precision and threads are logged where they are settled."""
    if folder is not None:
        logger.info("run folder: %s", folder)
    announce_machine(config)
    task.announce(config, data, model)
    for text in optim.unfinished(0.0, config.epochs, config.warmup_steps, data.num_steps):
        logger.warning("%s", text)
