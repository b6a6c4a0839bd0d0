"""Weights & Biases: started before the training, kept off the network unless it is asked for, fed with pictures."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping
from pathlib import Path

import pytorch_lightning as pl
from pytorch_lightning.loggers import WandbLogger

logger = logging.getLogger(__name__)

PROJECT = "maskwise"
START_SECONDS = 30.0
WAITS = (2.0, 8.0)  # seconds between the attempts to reach the server


def start_wandb(folder: Path, mode: str, options: Mapping[str, object]) -> WandbLogger:
    """Start a W&B run whose files lie in the run folder, and return its logger.

    A server that cannot be reached is tried again, then the run goes on offline; `wandb sync` sends it later. One that
    goes away during the run is W&B's own business: its service keeps trying beside the training.

    Args:
        folder: the run folder, whose name the W&B run takes.
        mode: "online" or "offline". Offline nothing leaves the machine and no key is asked for.
        options: of the run, shown as the W&B run's config.
    Raises:
        ValueError: one line, if W&B refuses to start: no key, or a wrong one.
    """
    import wandb  # a second, for those who want it

    for wait in (*WAITS, None) if mode == "online" else ():
        try:
            return _start(folder, mode, options)
        except wandb.errors.AuthenticationError as error:
            raise ValueError(_refusal(mode, error)) from error
        except wandb.errors.CommError as error:
            reason = _reason(error)
        if wait is not None:
            logger.warning("Weights & Biases cannot be reached (%s); trying again in %g s", reason, wait)
            time.sleep(wait)
    if mode == "online":
        logger.error(
            "Weights & Biases cannot be reached; the run goes on offline: wandb sync %s/wandb/offline-*", folder
        )
    return _start(folder, "offline", options)


def _start(folder: Path, mode: str, options: Mapping[str, object]) -> WandbLogger:
    import wandb

    if mode == "offline":
        # Its own telemetry goes out even then, unless it is told not to.
        os.environ["WANDB_ERROR_REPORTING"] = "false"
    run_logger = WandbLogger(
        name=folder.name,
        save_dir=folder,
        project=PROJECT,
        config=dict(options),
        mode=mode,
        settings=wandb.Settings(init_timeout=START_SECONDS),
    )
    try:
        _ = run_logger.experiment  # starts the run, which Lightning would put off until everything else is built
    except wandb.errors.UsageError as error:
        raise ValueError(_refusal(mode, error)) from error
    return run_logger


def _refusal(mode: str, error: Exception) -> str:
    return (
        f"--wandb {mode}: Weights & Biases did not start ({_reason(error)}); log in with `wandb login`, check the "
        "network, or use --wandb offline"
    )


def _reason(error: Exception) -> str:
    return str(error).splitlines()[0].rstrip(".")


def log_picture(trainer: pl.Trainer, name: str, path: Path) -> None:
    """Hand a picture of the run folder to W&B, where it is on."""
    for run_logger in trainer.loggers:
        if isinstance(run_logger, WandbLogger):
            run_logger.log_image(name, [str(path)], step=trainer.global_step)
