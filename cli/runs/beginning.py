"""The beginning of a run of any task: the checkpoint it goes on from, and its folder."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from logging.handlers import MemoryHandler
from pathlib import Path
from typing import Any, TextIO

from cli.checkpoints import newest_checkpoint
from config import AUTO, Run
from engine import runs
from engine.callbacks import truncate_incidents
from engine.devices import device_name, uses_gpu, world_size
from engine.files import WriteFailures
from engine.loggers.metrics_logger import truncate_metrics
from engine.loggers.tensorboard_logger import restart_tensorboard
from engine.loggers.wandb_run import restore_wandb_id
from models.loading import DamagedCheckpointError
from options.overrides import override
from system.cores import usable_workers
from system.files import make_room, remove_unfinished

logger = logging.getLogger(__name__)
RUNS = Path("experiments")


def find_checkpoint(
    given: Run, passed: Collection[Path] = (), newest: Callable[[Path], Path | None] = newest_checkpoint
) -> Run:
    """Return the options with `auto` replaced by the newest checkpoint, if any, not from the folders passed over.

    Args:
        given: options of the command.
        passed: folders that are passed over.
        newest: returns the newest whole checkpoint of a folder.
    """
    if given.resume_from_checkpoint != AUTO:
        if given.requeue:
            logger.warning("--requeue starts the same command again, which without auto is a new run")
        return given
    folders = (folder for folder in runs.run_folders(RUNS, given.prefix) if folder not in passed)
    folder = next((folder for folder in folders if not runs.only_evaluated(folder)), None)
    found = None if folder is None else newest(folder)
    if found is not None:
        logger.info("--resume_from_checkpoint auto: going on from %s", found)
        return replace(given, resume_from_checkpoint=str(found), start_from_model_statedict=None)
    if getattr(given, "evaluate", False) and given.start_from_model_statedict is None:
        raise ValueError(f"--resume_from_checkpoint auto: no checkpoint to evaluate in {folder or RUNS}")
    logger.warning("--resume_from_checkpoint auto: no whole checkpoint in %s; a new run starts", folder or RUNS)
    # The same command begins the run and goes on with it.
    return replace(override(given, given.override), resume_from_checkpoint=None, override=())


def lock_resumed(given: Run) -> TextIO | None:
    """Take the folder of the run that goes on, before anything is read that its own process might change."""
    evaluates = getattr(given, "evaluate", False)
    if given.resume_from_checkpoint is None or evaluates or not Path(given.resume_from_checkpoint).is_file():
        return None
    return runs.lock_folder(Path(given.resume_from_checkpoint).parent)


def read_whole(read: Callable[[str], dict[str, Any]], path: str) -> dict[str, Any]:
    """Return what `read` returns of a checkpoint; of a damaged one the error says where a whole one is found."""
    try:
        return read(path)
    except DamagedCheckpointError as error:
        raise ValueError(f"{error}; --resume_from_checkpoint auto takes the newest one that is whole") from error


def run_folder(config: Run, checkpoint: Mapping[str, Any] | None, data: str = "FaceDataModule") -> Path:
    """Return a new run folder, or the one of the resumed run, its metrics cut back to the checkpoint.

    Args:
        config: options of the run.
        checkpoint: that it goes on from.
        data: the name of the data module, under which the checkpoint has the place in the data.
    """
    if checkpoint is None:
        return runs.create_run_folder(RUNS, config.prefix)
    assert config.resume_from_checkpoint is not None
    path = Path(config.resume_from_checkpoint)
    remove_unfinished(path.parent)
    make_room(path.parent, runs.SIDE_FILES, runs.SIDE_FOLDERS)
    dropped = truncate_metrics(path.parent / "metrics.csv", checkpoint["global_step"])
    truncate_incidents(path.parent / "incidents.jsonl", checkpoint["global_step"])
    restart_tensorboard(path.parent, checkpoint["global_step"])
    restore_wandb_id(path.parent, checkpoint)
    logger.info("resuming %s: %d rows of metrics.csv will be written again", path, dropped)
    if checkpoint[data]["epoch"] >= config.epochs:
        logger.info("nothing is left to train: its %d epochs are done; --epochs takes more", config.epochs)
    return path.parent


def record(
    folder: Path, config: Run, words: list[str], log: MemoryHandler, failures: WriteFailures, lock: TextIO | None
) -> TextIO:
    """Write what is needed to repeat a run into its folder, and from here on its log; return the folder's lock.

    Args:
        folder: of the run.
        config: options of the run.
        words: of the command.
        log: what was logged until here.
        failures: that count what cannot be written.
        lock: that is held already, of a run that goes on.
    """
    lock = lock or runs.lock_folder(folder)
    runs.log_into(folder, log, failures)
    runs.write_record(folder, config, words)
    return lock


def announce_machine(config: Run) -> None:
    """Log what the run computes with; precision and threads are logged where they are settled."""
    name, workers = device_name(uses_gpu(config)), usable_workers(config.num_workers)
    logger.info("device: %s, ranks: %d, workers of each: %d", name, world_size(config), workers)
