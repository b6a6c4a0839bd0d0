"""Weights & Biases: started before the training, kept off the network unless it is asked for, fed with pictures."""

from __future__ import annotations

import logging
import os
import re
import secrets
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.loggers import WandbLogger

from engine.files import WriteFailures, outlived
from system.files import write_text

logger = logging.getLogger(__name__)

START_SECONDS = 30.0
WAITS = (2.0, 8.0)  # seconds between the attempts to reach the server
ID_FILE = "wandb_id.txt"
ID_KEY = "wandb_id"  # in a checkpoint
_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")


class WandbIdentity(Callback):
    """Put the id of the W&B run into every checkpoint, where there is one: a run that is resumed goes on under it.

    Args:
        folder: the run folder, None on the ranks that write nothing.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    def on_save_checkpoint(self, trainer: pl.Trainer, module: pl.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Add the id."""
        run_id = None if self._folder is None else _read_id(self._folder)
        if run_id is not None:
            checkpoint[ID_KEY] = run_id


def restore_wandb_id(folder: Path, checkpoint: Mapping[str, Any]) -> None:
    """Give a run folder the id that its checkpoint knows, should it have none of its own.

    Raises:
        OSError: if it cannot be written.
    """
    run_id = checkpoint.get(ID_KEY)
    if _read_id(folder) is None and isinstance(run_id, str) and _ID.fullmatch(run_id):
        write_text(folder / ID_FILE, f"{run_id}\n")


def start_wandb(folder: Path, options: Mapping[str, Any], failures: WriteFailures | None = None) -> WandbLogger:
    """Start the W&B run of a run folder, or go on with it, and return its logger.

    Its id stays in `wandb_id.txt`, its files in `wandb/`. A server that cannot be reached is tried again, then the run
    goes on offline; `wandb sync` sends it later, all pieces of one id in their order. One that goes away during the run
    is W&B's own business: its service keeps trying beside the training.

    W&B refuses numbers of an earlier step, so the optimizer step is a value of its own, `trainer/global_step`, and the
    axis of every chart: steps that a resumed run repeats are there twice, the later ones last.

    Args:
        folder: the run folder.
        options: of the run, shown as the W&B run's config. `wandb` is "online" or "offline": then nothing leaves the
            machine and no key is asked for. `wandb_project`, `wandb_entity` and `wandb_name` say where it belongs and
            what it is called, None: W&B's default entity, the folder's name.
        failures: told when the id cannot be written; None: that is an error.
    Raises:
        ValueError: one line, if W&B refuses to start: no key, or a wrong one.
    """
    import wandb  # a second, for those who want it

    mode = options["wandb"]
    if _read_id(folder) is None:
        _write_id(folder, failures)
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


def _read_id(folder: Path) -> str | None:
    """Return the id in a run folder, None where there is none or the file holds anything else."""
    try:
        run_id = (folder / ID_FILE).read_text("ascii").strip()
    except (OSError, ValueError):
        return None
    return run_id if _ID.fullmatch(run_id) else None


def _write_id(folder: Path, failures: WriteFailures | None) -> None:
    with outlived(failures, ID_FILE):
        write_text(folder / ID_FILE, f"{secrets.token_hex(4)}\n")


def _start(folder: Path, mode: str, options: Mapping[str, Any]) -> WandbLogger:
    import wandb

    if mode == "offline":
        # Its own telemetry goes out even then, unless it is told not to.
        os.environ["WANDB_ERROR_REPORTING"] = "false"
    run_logger = WandbLogger(
        name=options["wandb_name"] or folder.name,
        save_dir=folder,
        project=options["wandb_project"],
        entity=options["wandb_entity"],
        id=_read_id(folder),
        resume="allow",
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
