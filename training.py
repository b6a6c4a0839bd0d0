"""A run from its options to its report: the program behind main.py."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path

import pytorch_lightning as pl
from rich.console import Console

import nets
import runs
from callbacks import TooManyUnreadableError, truncate_metrics
from checkpoints import check_identities, load_pretrained_model, read_checkpoint
from config import Config, merge_for_resume
from data import FaceDataModule
from evaluation import METHODS
from evaluation.report import format_table
from reporting import benchmark_results, write_all
from train_val import MAIN_DATASET, Recognizer
from trainer import build_trainer, is_main_process, world_size
from updates import NonFiniteError
from validation import CONDITIONS, metric_names

logger = logging.getLogger(__name__)
RUNS = Path("experiments")


@dataclass(frozen=True)
class Session:
    """Everything a run needs, built and checked; `folder` is None on ranks that write nothing."""

    config: Config
    folder: Path | None
    datamodule: FaceDataModule
    model: Recognizer
    trainer: pl.Trainer


def prepare(given: Config, explicit: AbstractSet[str], argv: Sequence[str]) -> Session:
    """Check options and input, make the run folder and build everything.

    Raises:
        ValueError, OSError: one line for the user about what is wrong with which flag or file.
    """
    log = runs.start_log(is_main_process())
    resumes = given.resume_from_checkpoint is not None and not given.evaluate
    config = _resumed_config(given, explicit) if resumes else given
    datamodule = FaceDataModule(config, world_size(config))
    datamodule.setup()
    if resumes:
        check_identities(str(config.resume_from_checkpoint), datamodule.num_classes)
    model = _build_model(config, datamodule)
    _check_monitor(config, datamodule, has_matcher=model.matcher is not None)
    folder = _run_folder(config, resumes) if is_main_process() and not config.fast_dev_run else None
    if folder is not None:
        runs.log_into(folder, log)
        runs.write_record(folder, config, ["main.py", *argv])
    for line in model.memory_plan(world_size(config)):
        logger.info("memory: %s", line)
    return Session(config, folder, datamodule, model, build_trainer(config, folder))


def run(session: Session) -> int:
    """Train, or only test, and write the report; return the exit code."""
    trainer, model, datamodule = session.trainer, session.model, session.datamodule
    if not session.config.evaluate:
        try:
            trainer.fit(
                model, datamodule=datamodule, ckpt_path=session.config.resume_from_checkpoint, weights_only=True
            )
        except (NonFiniteError, TooManyUnreadableError) as error:
            logger.error("%s", error)
            return 1
    # The report is about the last weights: choosing the best epoch on the same pairs would flatter it.
    trainer.test(model, datamodule=datamodule, verbose=False)
    if session.folder is not None:
        _report(session, session.folder)
    return 0


def _resumed_config(given: Config, explicit: AbstractSet[str]) -> Config:
    assert given.resume_from_checkpoint is not None
    saved = read_checkpoint(given.resume_from_checkpoint)["hyper_parameters"]["config"]
    return merge_for_resume(saved, given, explicit)


def _check_monitor(config: Config, datamodule: FaceDataModule, has_matcher: bool) -> None:
    """Refuse now what the first validation would not find."""
    conditions = CONDITIONS if config.val_occlusion else CONDITIONS[:1]
    names = metric_names(datamodule.benchmarks, conditions, METHODS if has_matcher else METHODS[:1])
    if config.monitor not in names:
        raise ValueError(f"--monitor: no metric will be called {config.monitor!r}; choose one of {', '.join(names)}")


def _run_folder(config: Config, resumes: bool) -> Path:
    """Return a new run folder, or the one of the resumed run, its metrics cut back to the checkpoint."""
    if not resumes:
        return runs.create_run_folder(RUNS, config.prefix)
    assert config.resume_from_checkpoint is not None
    checkpoint = Path(config.resume_from_checkpoint)
    dropped = truncate_metrics(checkpoint.parent / "metrics.csv", read_checkpoint(checkpoint)["global_step"])
    logger.info("resuming %s: %d rows of metrics.csv will be written again", checkpoint, dropped)
    return checkpoint.parent


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
    write_all(folder / "report", results)
    console = Console(soft_wrap=True)
    console.print(format_table(results), highlight=False, markup=False)
    for name, entry in results["comparisons"].items():
        console.print(
            f"{name}: {100 * entry['estimate']:+.2f} points [{100 * entry['lower']:+.2f}, {100 * entry['upper']:+.2f}]"
        )
    console.print(f"run folder: {folder}")
