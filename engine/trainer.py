"""The Lightning trainer of a run: device, ranks, precision, loggers and callbacks as the options say."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytorch_lightning as pl
from lightning_fabric.plugins.environments import (
    ClusterEnvironment,
    LightningEnvironment,
    SLURMEnvironment,
    TorchElasticEnvironment,
)
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.loggers import Logger
from pytorch_lightning.strategies import DDPStrategy

from engine.callbacks import (
    BEST,
    BestCheckpoint,
    Heartbeat,
    IdleWorkers,
    IncidentList,
    LastCheckpoint,
    LossBar,
    OverriddenNumbers,
    Patience,
    RankState,
    SameStart,
    WeightAverage,
)
from engine.checkpoint_file import AtomicCheckpointIO
from engine.devices import choose_precision, local_ranks, uses_gpu, world_size
from engine.files import WriteFailures
from engine.internals import leave_signals_alone
from engine.loggers.metrics_logger import MetricsLogger
from engine.loggers.tensorboard_logger import TensorBoardLogger
from engine.loggers.wandb_artifacts import WandbArtifacts
from engine.loggers.wandb_run import WandbIdentity, start_wandb
from engine.signals import StopSignals
from engine.stages import StageSwitch
from engine.status.writing import StatusPage
from options.engine import EngineOptions
from options.names import NO_METRIC, TEST_RUN_BATCHES
from system.launch import find_launch

PRECISIONS = {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}


def build_trainer(
    options: EngineOptions,
    folder: Path | None,
    stop: StopSignals | None = None,
    failures: WriteFailures | None = None,
    callbacks: Sequence[Callback] = (),
) -> pl.Trainer:
    """Return the trainer.

    Args:
        options: of the run.
        folder: the run folder on rank 0, None elsewhere.
        stop: what tells that a signal came; None: no signal ends the run early.
        failures: what is told of files that cannot be written.
        callbacks: those of the task.
    """
    stop, failures = stop or StopSignals(), failures or WriteFailures()
    on_gpu, devices, world = uses_gpu(options), local_ranks(options), world_size(options)
    page = _status_page(options, folder, failures)
    trainer = pl.Trainer(
        accelerator="gpu" if on_gpu else "cpu",
        devices=devices,
        num_nodes=max(1, world // devices),
        strategy=_strategy(on_gpu) if world > 1 else "auto",
        plugins=[AtomicCheckpointIO(failures), _cluster_environment()],
        precision=_precision(options),  # type: ignore[arg-type]
        max_epochs=options.epochs,
        accumulate_grad_batches=options.accumulate_grad_batches,
        val_check_interval=options.val_check_interval,
        check_val_every_n_epoch=options.check_val_every_n_epoch,
        limit_train_batches=TEST_RUN_BATCHES if options.test_run else 1.0,
        fast_dev_run=options.fast_dev_run,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        enable_model_summary=False,
        logger=_loggers(options, folder, failures, page),
        callbacks=[*_callbacks(options, folder, stop, failures, callbacks), *filter(None, [page])],
        default_root_dir=folder,
        log_every_n_steps=options.log_every_n_steps,
    )
    leave_signals_alone(trainer)
    return trainer


def _precision(options: EngineOptions) -> str:
    return "64-true" if options.check_mode else PRECISIONS[str(choose_precision(options).value)]


def _cluster_environment() -> ClusterEnvironment:
    # Lightning's own choice takes a task of srun in an interactive job for a run of its own, and a single task, in a
    # job that has several, for one that waits for others.
    launch = find_launch()
    if launch is None:
        return LightningEnvironment()
    return TorchElasticEnvironment() if launch.launcher == "torchrun" else SLURMEnvironment(auto_requeue=False)


def _strategy(on_gpu: bool) -> DDPStrategy:
    # Every parameter takes part in every step or is frozen, so no graph traversal looks for unused ones.
    return DDPStrategy(process_group_backend="nccl" if on_gpu else "gloo", find_unused_parameters=False)


def _status_page(options: EngineOptions, folder: Path | None, failures: WriteFailures) -> StatusPage | None:
    writes = folder is not None and options.status_seconds and not options.fast_dev_run
    return StatusPage(folder, options, failures) if folder is not None and writes else None


def _loggers(
    options: EngineOptions, folder: Path | None, failures: WriteFailures, page: StatusPage | None
) -> list[Logger] | bool:
    if folder is None or options.fast_dev_run:
        return False
    loggers: list[Logger] = [MetricsLogger(folder, failures)]
    if options.tensorboard:
        loggers.append(TensorBoardLogger(folder, failures))
    if page is not None:
        loggers.append(page.logger)
    if options.wandb != "disabled":
        loggers.append(start_wandb(folder, options.to_dict(), failures))
    return loggers


def _callbacks(
    options: EngineOptions, folder: Path | None, stop: StopSignals, failures: WriteFailures, of_task: Sequence[Callback]
) -> list[Callback]:
    callbacks: list[Callback] = [SameStart(), LossBar(leave=True), *of_task]
    if options.stages:
        callbacks.append(StageSwitch(options))
    if options.ema_decay:
        callbacks.append(WeightAverage(options.ema_decay))
    if options.override:
        callbacks.append(OverriddenNumbers(options))
    if options.fast_dev_run:
        return callbacks
    if options.heartbeat_seconds:
        callbacks.append(Heartbeat(folder, options.heartbeat_seconds, failures))
    if options.wandb_artifacts:
        callbacks.append(WandbArtifacts(folder, failures))
    keep_every = 1 if options.save_all_models else options.keep_every_n_epochs
    if options.monitor != NO_METRIC:
        name = Path(BEST).stem
        best = BestCheckpoint(folder, name, options.monitor, mode="max", save_top_k=1, enable_version_counter=False)
        callbacks.append(best)
        if options.patience:
            callbacks.append(Patience(options.monitor, options.patience, best))
    return [
        *callbacks,
        IncidentList(folder, failures),
        IdleWorkers(),
        RankState(),
        WandbIdentity(folder),
        LastCheckpoint(folder, stop, failures, options.checkpoint_every_n_steps, keep_every),
    ]
