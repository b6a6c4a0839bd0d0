"""A pretraining from its options to its end: the program behind `main.py pretrain`."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TextIO

import pytorch_lightning as pl

import nets
from cli.checkpoints import newest_checkpoint
from cli.pretraining.checkpoints import DATA, check_data, read_to_resume
from cli.training import (
    find_checkpoint,
    kill_started_ranks,
    lock_resumed,
    run_folder,
    say_how_to_go_on,
    supervised,
)
from config import PretrainingConfig, merge_for_resume
from engine import optim, runs
from engine.callbacks import LAST, UnreadableList
from engine.devices import device_name, local_ranks, settle, uses_gpu, world_size
from engine.files import WriteFailures
from engine.loggers.tensorboard_logger import require_tensorboard
from engine.signals import StopSignals
from engine.trainer import build_trainer
from evaluation import METHODS
from evaluation.run import CONDITIONS
from models.loading import DamagedCheckpointError
from options.names import NO_METRIC
from system.cores import usable_workers
from system.launch import is_main_process
from system.terminal import show
from tasks.moco.data import PretrainingData
from tasks.moco.module import ENCODERS, Pretrainer
from tasks.moco.refresh import ClusterRefresh
from tasks.sample_sheet import SampleSheet
from tasks.score_histograms import ScoreHistograms
from tasks.validation import metric_names

logger = logging.getLogger(__name__)
PROGRAM = "pretrain"
FAST_BATCH = 8  # images of a rank with --fast_dev_run


@dataclass(frozen=True)
class Session:
    """Everything a run needs, built and checked; `folder` and its `lock` are None on ranks that write nothing."""

    config: PretrainingConfig
    folder: Path | None
    datamodule: PretrainingData
    model: Pretrainer
    trainer: pl.Trainer
    stop: StopSignals
    failures: WriteFailures
    lock: TextIO | None


def prepare(
    given: PretrainingConfig, explicit: AbstractSet[str], argv: Sequence[str], stop: StopSignals | None = None
) -> Session:
    """Check options and input, make the run folder and build everything.

    Args:
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
        given = replace(given, batch_size=FAST_BATCH * world_size(given))
    found = find_checkpoint(given, newest=partial(newest_checkpoint, read=read_to_resume))
    lock = lock_resumed(found) if writes else None
    config, checkpoint, datamodule = _open(found, explicit)
    model = _build_model(config, datamodule)
    folder = run_folder(config, checkpoint, DATA) if writes else None
    stop, failures = stop or StopSignals(), WriteFailures()
    callbacks: list[pl.Callback] = [ClusterRefresh(folder, failures, usable_workers(config.num_workers))]
    if not config.fast_dev_run:
        callbacks += [
            SampleSheet(folder, failures),
            UnreadableList(folder, config.max_bad_fraction, failures),
            *([ScoreHistograms(folder, failures)] if datamodule.benchmarks else []),
        ]
    if folder is not None:
        lock = lock or runs.lock_folder(folder)
        runs.log_into(folder, log, failures)
        runs.write_record(folder, config, ["main.py", PROGRAM, *argv])
    _announce(config, folder, datamodule, model)
    trainer = build_trainer(config, folder, stop, failures, callbacks=callbacks)
    if not datamodule.benchmarks:
        trainer.limit_val_batches = 0  # else Lightning warns of a loader without pairs
    stop.on_exit = partial(say_how_to_go_on, "stopped", folder, PROGRAM)
    stop.on_second = partial(kill_started_ranks, trainer)
    return Session(config, folder, datamodule, model, trainer, stop, failures, lock)


def run(session: Session) -> int:
    """Train and return the exit code, see docs/reliability.md."""
    config, fit = session.config, session.trainer.fit
    work = partial(
        fit, session.model, datamodule=session.datamodule, ckpt_path=config.resume_from_checkpoint, weights_only=True
    )
    return supervised(session, work, _say_what_is_there, PROGRAM)


def _open(
    given: PretrainingConfig, explicit: AbstractSet[str]
) -> tuple[PretrainingConfig, dict[str, Any] | None, PretrainingData]:
    """Return options, checkpoint and data, which fit each other."""
    config, checkpoint, saved, path = given, None, None, given.resume_from_checkpoint
    if path is not None:
        try:
            checkpoint = read_to_resume(path)
        except DamagedCheckpointError as error:
            raise ValueError(f"{error}; --resume_from_checkpoint auto takes the newest one that is whole") from error
        options = checkpoint["hyper_parameters"]["config"]
        saved, config = PretrainingConfig.from_dict(dict(options)), merge_for_resume(options, given, explicit)
    elif given.override:
        raise ValueError("--override changes a run that goes on: without a checkpoint give the flags themselves")
    if config.tensorboard:
        require_tensorboard()
    datamodule = PretrainingData(config, world_size(config))
    datamodule.setup()
    _check_monitor(config, datamodule)
    if checkpoint is not None:
        check_data(str(path), checkpoint, datamodule)
    settled = settle(config, local_ranks(config), saved)
    datamodule.options = settled
    return settled, checkpoint, datamodule


def _check_monitor(config: PretrainingConfig, datamodule: PretrainingData) -> None:
    if config.monitor != NO_METRIC:
        names = [*metric_names(datamodule.benchmarks, CONDITIONS[:1], METHODS[:1]), *datamodule.votes.names()]
        if config.monitor not in names:
            raise ValueError(
                f"--monitor: no metric will be called {config.monitor!r}; choose one of {', '.join(names)}"
            )


def _build_model(config: PretrainingConfig, datamodule: PretrainingData) -> Pretrainer:
    """Return the model to train; every random draw of its weights follows `--seed`."""
    pl.seed_everything(config.seed, workers=True, verbose=False)
    model = Pretrainer(config.to_dict(), datamodule.num_images, datamodule.images)
    backbone = model.backbone
    if config.start_from_model_statedict is not None:
        nets.load_weights(backbone, config.start_from_model_statedict, config.color_space)
        model.contrast.restart_key()
        logger.info("%s: took the backbone", config.start_from_model_statedict)
    if config.compile:
        backbone.compile()  # in place: checkpoints keep the names of the parameters
    return model


def _announce(config: PretrainingConfig, folder: Path | None, datamodule: PretrainingData, model: Pretrainer) -> None:
    """Log what this run is: precision and threads are logged where they are settled."""
    if folder is not None:
        logger.info("run folder: %s", folder)
    ranks = world_size(config)
    name, workers = device_name(uses_gpu(config)), usable_workers(config.num_workers)
    logger.info("device: %s, ranks: %d, workers of each: %d", name, ranks, workers)
    count = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    logger.info("model: %s, %s parameters are trained, as many follow them", config.arch, f"{count:,}")
    logger.info(
        "data: %d images, labels not looked at; steps: %d in %d epochs; the queue holds %.1f batches",
        datamodule.num_images, datamodule.num_steps, config.epochs, config.queue_size / config.batch_size,
    )  # fmt: skip
    if config.queue_size > datamodule.num_images:
        logger.warning(
            "--queue_size %d is more than the %d images: it holds keys of each from several steps, which are left out"
            " of the negatives of its own; give %d or less", config.queue_size, datamodule.num_images,
            max(config.batch_size, datamodule.num_images // 2),
        )  # fmt: skip
    if config.key_norm == "sync" and ranks == 1:
        logger.warning("--key_norm sync on one rank: queries and keys share their statistics, which leaks; use shuffle")
    for text in optim.unfinished(0.0, config.epochs, config.warmup_steps, datamodule.num_steps):
        logger.warning("%s", text)


def _say_what_is_there(folder: Path) -> None:
    path = folder / LAST
    if path.exists():
        show(f"{path}: the pretrained encoders, {' and '.join(ENCODERS)}")
    show(f"run folder: {folder}")
