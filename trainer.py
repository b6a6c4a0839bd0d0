"""The Lightning trainer of a run: device, ranks, precision, loggers and callbacks as the options say."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, ModelCheckpoint, RichProgressBar
from pytorch_lightning.loggers import Logger
from pytorch_lightning.strategies import DDPStrategy

from callbacks import (
    AtomicCheckpointIO,
    MetricsLogger,
    NeighbourTable,
    SampleSheet,
    ScoreHistograms,
    UnreadableList,
    start_wandb,
)
from config import Config
from data import usable_workers

PRECISIONS = {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}
TEST_RUN_BATCHES = 50


def is_main_process() -> bool:
    """Return whether this process is rank 0, before any process group exists."""
    return all(int(os.environ.get(name, 0)) == 0 for name in ("RANK", "LOCAL_RANK", "NODE_RANK"))


def uses_gpu(config: Config) -> bool:
    """Return whether the run uses GPUs: asked for, and there."""
    return config.gpus > 0 and torch.cuda.is_available()


def local_ranks(config: Config) -> int:
    """Return the ranks on this machine: what torchrun started, else one per GPU, else `--num_processes`."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", config.gpus if uses_gpu(config) else config.num_processes))


def world_size(config: Config) -> int:
    """Return the ranks of the whole run."""
    return int(os.environ.get("WORLD_SIZE", local_ranks(config)))


def build_trainer(config: Config, folder: Path | None) -> pl.Trainer:
    """Return the trainer; `folder` is the run folder on rank 0 and None elsewhere."""
    on_gpu, devices, world = uses_gpu(config), local_ranks(config), world_size(config)
    return pl.Trainer(
        accelerator="gpu" if on_gpu else "cpu",
        devices=devices,
        num_nodes=max(1, world // devices),
        strategy=_strategy(on_gpu) if world > 1 else "auto",
        plugins=[AtomicCheckpointIO()],
        precision=PRECISIONS[config.precision_on(on_gpu)],  # type: ignore[arg-type]
        max_epochs=config.epochs,
        accumulate_grad_batches=config.accumulate_grad_batches,
        val_check_interval=config.val_check_interval,
        check_val_every_n_epoch=config.check_val_every_n_epoch,
        limit_train_batches=TEST_RUN_BATCHES if config.test_run else 1.0,
        fast_dev_run=config.fast_dev_run,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        enable_model_summary=False,
        logger=_loggers(config, folder),
        callbacks=_callbacks(config, folder),
        default_root_dir=folder,
        log_every_n_steps=config.log_every_n_steps,
    )


def _strategy(on_gpu: bool) -> DDPStrategy:
    # Every parameter takes part in every step or is frozen, so no graph traversal looks for unused ones.
    return DDPStrategy(process_group_backend="nccl" if on_gpu else "gloo", find_unused_parameters=False)


def _loggers(config: Config, folder: Path | None) -> list[Logger] | bool:
    if folder is None or config.fast_dev_run:
        return False
    loggers: list[Logger] = [MetricsLogger(folder)]
    if config.wandb != "disabled":
        loggers.append(start_wandb(folder, config.wandb, config.to_dict()))
    return loggers


def _callbacks(config: Config, folder: Path | None) -> list[Callback]:
    callbacks: list[Callback] = [RichProgressBar(leave=True)]
    if config.sampler == "graph":
        # Random weights know no neighbours: their first epoch has random identities.
        first_epoch = 0 if config.start_from_model_statedict else 1
        callbacks.append(NeighbourTable(first_epoch, num_workers=usable_workers(config.num_workers)))
    if config.fast_dev_run:
        return callbacks
    callbacks += [SampleSheet(folder), ScoreHistograms(folder), UnreadableList(folder, config.max_bad_fraction)]
    common: dict[str, Any] = {"dirpath": folder, "enable_version_counter": False}
    best = ModelCheckpoint(filename="best", monitor=config.monitor, mode="max", save_top_k=1, **common)
    last = ModelCheckpoint(filename="last", every_n_epochs=1, save_on_train_epoch_end=True, **common)
    callbacks += [best, last]
    if config.save_all_models:
        # Nothing is monitored, so the mode means nothing; but two callbacks with equal settings share a key in the
        # checkpoint, which Lightning refuses, and `last` has the other mode.
        every = ModelCheckpoint(filename="epoch_{epoch:03d}", auto_insert_metric_name=False, save_top_k=-1, mode="max",
                                save_on_train_epoch_end=True, **common)  # fmt: skip
        callbacks.append(every)
    return callbacks
