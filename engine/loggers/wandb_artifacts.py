"""Checkpoints uploaded to Weights & Biases as artifacts, beside the training and never at its cost."""

from __future__ import annotations

import logging
import queue
import re
import threading
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.loggers import WandbLogger

from engine.checkpoint_file import keep_copy
from engine.files import WriteFailures, outlived

logger = logging.getLogger(__name__)

FOLDER = "wandb_upload"  # in the run folder: copies whose upload is not confirmed
WAITS = (2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0)  # seconds between the attempts
CONFIRM_SECONDS = 1800  # for one upload, before it counts as failed
FINISH_SECONDS = 600.0  # for the uploads that are left at the end of a run
# Not "exceeded" alone: a network that is down says "Max retries exceeded".
_QUOTA = re.compile(r"quota|storage (limit|exceeded)|exceeded .*storage|insufficient storage|payment required")


class WandbArtifacts(Callback):
    """Upload the checkpoints of a run folder that are new since the last epoch, at the start of each and at the end.

    A copy, which costs nothing where the file system knows hard links, stays in `wandb_upload/` until the server has
    confirmed the upload; a run that goes on uploads what an earlier one left there. A thread of its own tries again
    with growing waits. Of a checkpoint that was written anew before its turn came, the newer one is uploaded. A quota
    that is used up ends the uploads, not the run.

    Args:
        folder: the run folder, None on the ranks that write nothing.
        failures: told when a copy cannot be made.
    """

    def __init__(self, folder: Path | None, failures: WriteFailures) -> None:
        self._folder = folder
        self._failures = failures
        self._states: dict[str, tuple[int, int]] = {}  # of the files handed over
        self._names: queue.Queue[str | None] = queue.Queue()
        self._thread: threading.Thread | None = None
        self._is_over = threading.Event()  # no more uploads

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Begin with what an earlier run of the folder could not upload."""
        run = _online_run(trainer)
        if self._folder is None or run is None:
            return
        self._thread = threading.Thread(target=self._work, args=(run,), daemon=True, name="W&B artifacts")
        self._thread.start()
        for copy in self._left():
            self._names.put(copy.name)

    def on_train_epoch_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Hand over what the epoch before has written."""
        self._offer()

    def on_fit_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Hand over the last checkpoints, and wait for the uploads for a while."""
        self._offer()
        if self._thread is None:
            return
        self._names.put(None)
        self._thread.join(FINISH_SECONDS)
        self._is_over.set()
        left = self._left()
        if left:
            logger.error(
                "W&B: %s not uploaded, kept in %s; resume the run, or: wandb artifact put --type model %s",
                ", ".join(path.name for path in left), left[0].parent, left[0],
            )  # fmt: skip
        elif self._folder is not None and (self._folder / FOLDER).is_dir():
            (self._folder / FOLDER).rmdir()

    def _left(self) -> list[Path]:
        return sorted((self._folder / FOLDER).glob("*.ckpt")) if self._folder else []

    def _offer(self) -> None:
        """Copy the checkpoints that are new, and let the thread know."""
        if self._folder is None or self._thread is None or self._is_over.is_set():
            return
        for path in sorted(self._folder.glob("*.ckpt")):
            status = path.stat()
            state = status.st_mtime_ns, status.st_size
            if self._states.get(path.name) == state:
                continue
            copy = self._folder / FOLDER / f"{path.stem}.{status.st_mtime_ns}.ckpt"
            with outlived(self._failures, f"{FOLDER}/{path.name}"):
                copy.parent.mkdir(exist_ok=True)
                keep_copy(path, copy)
                self._states[path.name] = state
                self._names.put(copy.name)

    # ---------------------------------------------------------------- the thread

    def _work(self, run: Any) -> None:
        assert self._folder is not None
        while (name := self._names.get()) is not None:
            copy = self._folder / FOLDER / name
            try:
                if any(_version(other) > _version(copy) for other in copy.parent.glob(f"{_stem(copy)}.*.ckpt")):
                    copy.unlink(missing_ok=True)  # its file was written anew before its turn came
                elif not self._is_over.is_set() and copy.exists():
                    self._upload(run, copy)
            except OSError as error:
                logger.error("W&B: %s cannot be read (%s); it is not uploaded", copy, error.strerror)

    def _upload(self, run: Any, copy: Path) -> None:
        """Upload one copy, and remove it once the server has confirmed that."""
        for wait in (*WAITS, None):
            try:
                _send(run, copy)
            except Exception as error:  # noqa: BLE001  # whatever W&B raises, the run goes on
                reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
                if _QUOTA.search(reason.lower()):
                    self._is_over.set()
                    logger.error("W&B: no room for artifacts (%s); no more are uploaded, the run goes on", reason)
                    return
                if wait is None or self._is_over.is_set():
                    logger.error("W&B: %s could not be uploaded (%s); it is kept", copy, reason)
                    return
                logger.warning("W&B: %s was not uploaded (%s); trying again in %g s", copy.name, reason, wait)
                time.sleep(wait)
            else:
                copy.unlink()
                return


def _stem(copy: Path) -> str:
    """Return the name of the checkpoint that a file is a copy of, without its suffix."""
    return copy.name.partition(".")[0]


def _version(copy: Path) -> int:
    number = copy.name.split(".")[-2]
    return int(number) if number.isdecimal() else 0


def _send(run: Any, copy: Path) -> None:
    """Hand a file to W&B and wait until the server has it.

    Raises:
        Exception: whatever W&B raises.
    """
    import wandb

    artifact = wandb.Artifact(f"{run.id}-{_stem(copy)}", type="model")
    artifact.add_file(
        str(copy), name=f"{_stem(copy)}.ckpt", policy="immutable", skip_cache=True
    )  # no further copy in W&B's own folders
    run.log_artifact(artifact).wait(timeout=CONFIRM_SECONDS)


def _online_run(trainer: pl.Trainer) -> Any | None:
    """Return the W&B run of a training, None where there is none or it is kept off the network."""
    for run_logger in trainer.loggers:
        if isinstance(run_logger, WandbLogger):
            run = run_logger.experiment
            if not getattr(run, "offline", False):
                return run
            logger.warning("--wandb_artifacts: W&B is offline, so no checkpoint is uploaded")
            return None
    logger.warning("--wandb_artifacts needs --wandb online: no checkpoint is uploaded")
    return None
