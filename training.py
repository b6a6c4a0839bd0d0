"""A run from its options to its report: the program behind main.py."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TextIO

import pytorch_lightning as pl

import nets
import runs
from callbacks import (
    RanksDisagreeError,
    TooManyUnreadableError,
    WorkerError,
    named_worker_errors,
    remove_unfinished,
    require_tensorboard,
    restart_tensorboard,
    restore_wandb_id,
    started_ranks,
    truncate_incidents,
    truncate_metrics,
    watched_ranks,
)
from checkpoints import (
    DamagedCheckpointError,
    check_data,
    load_pretrained_model,
    newest_checkpoint,
    read_to_resume,
)
from config import AUTO, Config, merge_for_resume
from data import FaceDataModule
from devices import local_ranks, settle, world_size
from disk import WriteFailures, side_file
from evaluation import METHODS
from evaluation.report import format_table, write_report
from guard import NonFiniteError
from out_of_memory import advice, is_out_of_memory
from ranks import is_main_process
from reporting import benchmark_results, draw_report
from stopping import Stopped, StopSignals
from terminal import show
from train_val import MAIN_DATASET, Recognizer
from trainer import build_trainer
from validation import CONDITIONS, metric_names

logger = logging.getLogger(__name__)
RUNS = Path("experiments")


@dataclass(frozen=True)
class Session:
    """Everything a run needs, built and checked; `folder` and its `lock` are None on ranks that write nothing."""

    config: Config
    folder: Path | None
    datamodule: FaceDataModule
    model: Recognizer
    trainer: pl.Trainer
    stop: StopSignals
    failures: WriteFailures
    lock: TextIO | None


def prepare(given: Config, explicit: AbstractSet[str], argv: Sequence[str], stop: StopSignals | None = None) -> Session:
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
    if given.requeue and given.resume_from_checkpoint != AUTO:
        logger.warning("--requeue starts the same command again: without --resume_from_checkpoint auto it is a new run")
    given = _find_checkpoint(given)
    writes = is_main_process() and not given.fast_dev_run
    lock = _lock_resumed(given) if writes else None
    checkpoint = _checkpoint_to_resume(given)
    config, saved = given, None
    if checkpoint is not None:
        saved = Config.from_dict(checkpoint["hyper_parameters"]["config"])
        config = merge_for_resume(checkpoint["hyper_parameters"]["config"], given, explicit)
    if config.tensorboard:
        require_tensorboard()
    config = settle(config, local_ranks(config), saved)
    datamodule = FaceDataModule(config, world_size(config))
    datamodule.setup()
    if checkpoint is not None:
        check_data(str(config.resume_from_checkpoint), checkpoint, datamodule)
    model = _build_model(config, datamodule)
    _check_monitor(config, datamodule, has_matcher=model.matcher is not None)
    folder = _run_folder(config, checkpoint) if writes else None
    stop, failures = stop or StopSignals(), WriteFailures()
    if folder is not None:
        lock = lock or runs.lock_folder(folder)
        runs.log_into(folder, log, failures)
        runs.write_record(folder, config, ["main.py", *argv])
    for line in model.memory_plan(world_size(config)):
        logger.info("memory: %s", line)
    trainer = build_trainer(config, folder, stop, failures)
    stop.on_second = partial(_kill_started_ranks, trainer)
    return Session(config, folder, datamodule, model, trainer, stop, failures, lock)


def run(session: Session) -> int:
    """Train, or only test, and write the report; return the exit code, see docs/reliability.md."""
    try:
        with watched_ranks(session.trainer), named_worker_errors():
            _train_and_test(session)
    except Stopped as stopped:
        logger.warning("%s; --resume_from_checkpoint goes on from there", stopped)
        return session.stop.leave(stopped.number)
    except (NonFiniteError, RanksDisagreeError, TooManyUnreadableError, WorkerError) as error:
        logger.error("%s", error)
        return 1
    except (RuntimeError, MemoryError, OSError) as error:
        if not is_out_of_memory(error):
            raise
        logger.error("%s", advice(error, session.config.batch_size, session.trainer.global_step + 1))
        return 1
    if session.folder is not None:
        _report(session, session.folder)
    return session.failures.exit_code()


def _train_and_test(session: Session) -> None:
    trainer, model, datamodule, config = session.trainer, session.model, session.datamodule, session.config
    if not config.evaluate:
        trainer.fit(model, datamodule=datamodule, ckpt_path=config.resume_from_checkpoint, weights_only=True)
    # The report is about the last weights: choosing the best epoch on the same pairs would flatter it.
    trainer.test(model, datamodule=datamodule, verbose=False)


def _kill_started_ranks(trainer: pl.Trainer) -> None:
    for process in started_ranks(trainer):
        process.kill()


def _find_checkpoint(given: Config) -> Config:
    """Return the options with `--resume_from_checkpoint auto` replaced by what it finds, if anything."""
    if given.resume_from_checkpoint != AUTO:
        return given
    folder = next((f for f in runs.run_folders(RUNS, given.prefix) if not runs.only_evaluated(f)), None)
    found = None if folder is None else newest_checkpoint(folder)
    if found is not None:
        logger.info("--resume_from_checkpoint auto: going on from %s", found)
        return replace(given, resume_from_checkpoint=str(found), start_from_model_statedict=None)
    if given.evaluate and given.start_from_model_statedict is None:
        raise ValueError(f"--resume_from_checkpoint auto: no checkpoint to evaluate in {folder or RUNS}")
    logger.warning("--resume_from_checkpoint auto: no whole checkpoint in %s; a new run starts", folder or RUNS)
    return replace(given, resume_from_checkpoint=None)


def _lock_resumed(given: Config) -> TextIO | None:
    """Take the folder of the run that goes on, before anything is read that its own process might change."""
    if given.resume_from_checkpoint is None or given.evaluate or not Path(given.resume_from_checkpoint).is_file():
        return None
    return runs.lock_folder(Path(given.resume_from_checkpoint).parent)


def _checkpoint_to_resume(given: Config) -> dict[str, Any] | None:
    """Return the content of the checkpoint that the run goes on from, or None for a new run."""
    if given.resume_from_checkpoint is None or given.evaluate:
        return None
    try:
        return read_to_resume(given.resume_from_checkpoint)
    except DamagedCheckpointError as error:
        raise ValueError(f"{error}; --resume_from_checkpoint auto takes the newest one that is whole") from error


def _check_monitor(config: Config, datamodule: FaceDataModule, has_matcher: bool) -> None:
    """Refuse now what the first validation would not find."""
    conditions = CONDITIONS if config.val_occlusion else CONDITIONS[:1]
    names = metric_names(datamodule.benchmarks, conditions, METHODS if has_matcher else METHODS[:1])
    if config.monitor not in names:
        raise ValueError(f"--monitor: no metric will be called {config.monitor!r}; choose one of {', '.join(names)}")


def _run_folder(config: Config, checkpoint: Mapping[str, Any] | None) -> Path:
    """Return a new run folder, or the one of the resumed run, its metrics cut back to the checkpoint."""
    if checkpoint is None:
        return runs.create_run_folder(RUNS, config.prefix)
    assert config.resume_from_checkpoint is not None
    path = Path(config.resume_from_checkpoint)
    remove_unfinished(path.parent)
    runs.set_aside_unusable(path.parent)
    dropped = truncate_metrics(path.parent / "metrics.csv", checkpoint["global_step"])
    truncate_incidents(path.parent / "incidents.jsonl", checkpoint["global_step"])
    restart_tensorboard(path.parent, checkpoint["global_step"])
    restore_wandb_id(path.parent, checkpoint)
    logger.info("resuming %s: %d rows of metrics.csv will be written again", path, dropped)
    return path.parent


def _build_model(config: Config, datamodule: FaceDataModule) -> Recognizer:
    """Return the model to train or test; every random draw of its weights follows `--seed`."""
    pl.seed_everything(config.seed, workers=True, verbose=False)
    if config.evaluate:
        path = config.resume_from_checkpoint or config.start_from_model_statedict
        assert path is not None, "Config checks that --evaluate comes with a checkpoint"
        return load_pretrained_model(path, color_space=config.color_space)
    model = Recognizer(config.to_dict(), {MAIN_DATASET: datamodule.num_classes})
    if config.start_from_model_statedict is not None:
        nets.load_weights(model.model, config.start_from_model_statedict, config.color_space)
    if config.compile:
        model.model.compile()  # in place: checkpoints keep the names of the parameters
    return model


def _report(session: Session, folder: Path) -> None:
    """Write the report of the last evaluation and print its table."""
    model, datamodule, config = session.model, session.datamodule, session.config
    statistics = model.fusion_statistics
    facts = {
        "synthetic": datamodule.synthetic,
        "missing": datamodule.missing,
        "run": folder.name,
        "step": session.trainer.global_step,
        "seed": config.seed,
        "val_occlusion": config.val_occlusion,
        "fusion_weights": model.fusion_weights,
        "fusion_source": "impostor pairs of the other folds",
        "pooled_statistics": None if statistics is None else statistics.to_dict(),
        "unreadable": sorted(datamodule.unreadable),
    }
    results = benchmark_results(model.last_results, datamodule.benchmarks, facts)
    with side_file(session.failures, "report"):
        write_report(folder / "report", results)
    draw_report(folder / "report", results, session.failures)
    show(format_table(results))
    for name, entry in results["comparisons"].items():
        show(
            f"{name}: {100 * entry['estimate']:+.2f} points [{100 * entry['lower']:+.2f}, {100 * entry['upper']:+.2f}]"
        )
    show(f"run folder: {folder}")
