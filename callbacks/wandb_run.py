"""Weights & Biases: started before the training, kept off the network unless it is asked for, fed with pictures."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import pytorch_lightning as pl
from pytorch_lightning.loggers import WandbLogger

PROJECT = "maskwise"


def start_wandb(folder: Path, mode: str, options: Mapping[str, object]) -> WandbLogger:
    """Start a W&B run whose files lie in the run folder, and return its logger.

    Args:
        folder: the run folder, whose name the W&B run takes.
        mode: "online" or "offline". Offline nothing leaves the machine and no key is asked for.
        options: of the run, shown as the W&B run's config.
    Raises:
        ValueError: one line, if W&B does not start: no key, no network, no server.
    """
    if mode == "offline":
        # Its own telemetry goes out even then, unless it is told not to.
        os.environ["WANDB_ERROR_REPORTING"] = "false"
    import wandb  # a second, for those who want it

    logger = WandbLogger(name=folder.name, save_dir=folder, project=PROJECT, config=dict(options), mode=mode)
    try:
        _ = logger.experiment  # starts the run, which Lightning would put off until everything else is built
    except wandb.errors.Error as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise ValueError(
            f"--wandb {mode}: Weights & Biases did not start ({reason}); log in with `wandb login`, check the network, "
            "or use --wandb offline"
        ) from error
    return logger


def log_picture(trainer: pl.Trainer, name: str, path: Path) -> None:
    """Hand a picture of the run folder to W&B, where it is on."""
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger):
            logger.log_image(name, [str(path)], step=trainer.global_step)
