"""A run from its options to its report: the program behind main.py."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import pytorch_lightning as pl
import torch

from cli.checkpoints import (
    OtherDataError,
    check_alignment,
    check_data,
    check_division,
    division_of,
    head_name,
    load_pretrained_model,
    read_to_resume,
    start_from,
)
from cli.refusals import check_memory, check_override, check_training
from cli.runs.beginning import announce_machine, find_checkpoint, lock_resumed, read_whole, record, run_folder
from cli.runs.supervision import answer_signals, supervised
from config import AUTO, IMAGES_PER_IDENTITY, Config, merge_for_resume
from data import FaceDataModule
from engine import optim, runs
from engine.devices import local_ranks, settle, world_size
from engine.files import WriteFailures, side_file
from engine.loggers.tensorboard_logger import require_tensorboard
from engine.signals import StopSignals
from engine.trainer import build_trainer
from evaluation.report import draw_report, format_table, tell_unhelped, write_report
from evaluation.run import build_results, compare
from models import Alignment
from system.launch import is_main_process
from system.terminal import show
from tasks.recognition.callbacks import build_callbacks
from tasks.recognition.hardest_pairs import add_hardest, look_at_test
from tasks.recognition.memory import plan_memory
from tasks.recognition.paired_watch import unhelped
from tasks.recognition.sharded_head import weigh_sets
from tasks.recognition.terms import class_weight
from train_val import Recognizer

logger = logging.getLogger(__name__)


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


class Beginning(NamedTuple):
    """What a run begins or goes on with; the lock is that of the folder that it goes on in."""

    config: Config
    checkpoint: dict[str, Any] | None
    datamodule: FaceDataModule
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
    writes = is_main_process() and not given.fast_dev_run
    given = shrink(given, explicit) if given.fast_dev_run else given
    config, checkpoint, datamodule, lock = begin(given, explicit, writes)
    model = build_model(config, datamodule)
    if not config.evaluate:
        check_training(config, datamodule, has_matcher=model.matcher is not None)
    folder = run_folder(config, checkpoint) if writes else None
    stop, failures = stop or StopSignals(), WriteFailures()
    if folder is not None:
        lock = record(folder, config, ["main.py", *argv], log, failures, lock)
    _announce(config, folder, datamodule, model)
    trainer = build_trainer(config, folder, stop, failures, callbacks=build_callbacks(config, folder, failures))
    answer_signals(stop, trainer, folder)
    return Session(config, folder, datamodule, model, trainer, stop, failures, lock)


def shrink(given: Config, explicit: AbstractSet[str]) -> Config:
    """Return the options of a smoke test: of default size it would take minutes on a CPU. What the user gave stays."""
    smallest = 2 * IMAGES_PER_IDENTITY * world_size(given)  # two people on every rank: the matcher needs pairs
    people = max(40, smallest, given.k_nearest + 1, given.custom_num_class or 0)
    sizes = {"batch_size": smallest, "synthetic_identities": people, "synthetic_images": IMAGES_PER_IDENTITY}
    changed = {name: min(size, getattr(given, name)) for name, size in sizes.items() if name not in explicit}
    logger.info("--fast_dev_run, unless given: %s", ", ".join(f"{name} {size}" for name, size in changed.items()))
    return replace(given, **changed)


def begin(given: Config, explicit: AbstractSet[str], writes: bool) -> Beginning:
    """Return what the run begins or goes on with; `auto` passes over runs that were made with other data."""
    auto, passed = given.resume_from_checkpoint == AUTO, list[Path]()
    while True:
        found = find_checkpoint(given, passed)
        lock = lock_resumed(found) if writes else None
        try:
            return Beginning(*_open(found, explicit, not auto), lock)
        except OtherDataError as error:
            if not auto:
                raise
            if lock is not None:
                lock.close()
            logger.warning("%s; --resume_from_checkpoint auto passes over this run", error)
            passed.append(Path(str(found.resume_from_checkpoint)).parent)


def _open(
    given: Config, explicit: AbstractSet[str], by_name: bool
) -> tuple[Config, dict[str, Any] | None, FaceDataModule]:
    """Return options, checkpoint and data, which fit each other."""
    goes_on = given.resume_from_checkpoint is not None and not given.evaluate
    checkpoint = read_whole(read_to_resume, str(given.resume_from_checkpoint)) if goes_on else None
    config, saved = given, None
    if checkpoint is not None:
        saved = Config.from_dict(checkpoint["hyper_parameters"]["config"])
        config = merge_for_resume(checkpoint["hyper_parameters"]["config"], given, explicit)
    if config.tensorboard:
        require_tensorboard()
    if saved is not None and checkpoint is not None:
        check_override(config, saved, checkpoint)
    elif given.override:
        raise ValueError("--override changes a run that goes on: without a checkpoint give the flags themselves")
    check_memory(config, dict.fromkeys(config.by_set(), config.custom_num_class or 1))
    evaluated = (config.resume_from_checkpoint or config.start_from_model_statedict) if config.evaluate else None
    datamodule = FaceDataModule(config, world_size(config), division_of(evaluated, checkpoint))
    datamodule.setup()
    check_division(evaluated, datamodule)
    check_alignment(evaluated, datamodule)
    if not config.evaluate:  # the training data may not be there
        check_memory(config, datamodule.classes)
    if checkpoint is not None:
        check_data(str(config.resume_from_checkpoint), checkpoint, datamodule, by_name)
    datamodule.options = settled = settle(config, local_ranks(config), saved)
    return settled, checkpoint, datamodule


def run(session: Session) -> int:
    """Train, or only test, and write the report; return the exit code, see docs/reliability.md."""
    return supervised(session, partial(_train_and_test, session), partial(_report, session))


def _train_and_test(session: Session) -> None:
    trainer, model, datamodule, config = session.trainer, session.model, session.datamodule, session.config
    if not config.evaluate:
        trainer.fit(model, datamodule=datamodule, ckpt_path=config.resume_from_checkpoint, weights_only=True)
    # The report is about the last weights: choosing the best epoch on the same pairs would flatter it.
    trainer.test(model, datamodule=datamodule, verbose=False)


def _announce(config: Config, folder: Path | None, datamodule: FaceDataModule, model: Recognizer) -> None:
    """Log what this run is: precision and threads are logged where they are settled."""
    if folder is not None:
        logger.info("run folder: %s; the report will be in %s", folder, folder / "report")
    announce_machine(config)
    count, of_backbone = (sum(p.numel() for p in module.parameters()) for module in (model, model.model))
    logger.info(
        "model: %s, %s parameters, of them %s in the backbone", model.config.arch, f"{count:,}", f"{of_backbone:,}"
    )
    sets = ", ".join(benchmark.name for benchmark in datamodule.benchmarks)
    if config.evaluate:  # the training data may not be there
        logger.info("evaluated on %s", sets)
        return
    logger.info(
        "data: %d images of %d identities, validated on %s; steps: %d in %d epochs",
        len(datamodule.train_dataset), datamodule.num_classes, sets, datamodule.num_steps, config.epochs,
    )  # fmt: skip
    for text in optim.unfinished(config.margin_warmup_epochs, config.epochs, config.warmup_steps, datamodule.num_steps):
        logger.warning("%s", text)
    if config.class_embeddings and model.matcher is not None and class_weight(config) == 0:
        logger.warning("--class_embeddings: nothing trains the class maps; give --class_weight or --triplet_weight")
    logger.info(
        "memory of a rank: %s",
        plan_memory(config, model.model, model.matcher, datamodule.num_classes, world_size(config)),
    )


def build_model(config: Config, datamodule: FaceDataModule) -> Recognizer:
    """Return the model to train or test; every random draw of its weights follows `--seed`."""
    pl.seed_everything(config.seed, workers=True, verbose=False)
    if config.evaluate:
        path = config.resume_from_checkpoint or config.start_from_model_statedict
        assert path is not None, "Config checks that --evaluate comes with a checkpoint"
        return load_pretrained_model(path, color_space=config.color_space)
    model = Recognizer(config.to_dict(), datamodule.classes, datamodule.identities)
    weigh_sets(model.heads, datamodule.loss_weights, datamodule.class_shares)
    model.merged = datamodule.merged
    model.hparams["division"] = datamodule.division
    if (alignment := Alignment.of(datamodule.alignment)) is not None:
        model.hparams["alignment"] = alignment._asdict()
    if config.start_from_model_statedict is not None:
        start_from(model, config.start_from_model_statedict, config.color_space, config.load)
    if config.frozen or config.lora_rank:
        logger.info("%s", optim.describe_frozen(model))
    if config.compile:
        model.model.compile()  # in place: checkpoints keep the names of the parameters
    return model


def _report(session: Session, folder: Path) -> None:
    """Write the report of the last evaluation and print its table."""
    model, datamodule, config = session.model, session.datamodule, session.config
    statistics, learned = model.fusion_statistics, model.normalization
    facts = {
        "head": head_name(model),
        "run": folder.name,
        "step": session.trainer.global_step,
        "seed": config.seed,
        "versions": runs.versions(),
        "val_occlusion": config.val_occlusion,
        "fusion_weights": model.fusion_weights,
        "fusion_source": "impostor pairs of the other folds" if learned is None else learned.source,
        "score_normalization": None if learned is None else learned.to_dict(),
        "pooled_statistics": None if statistics is None else statistics.to_dict(),
        "unreadable": sorted(datamodule.unreadable),
        **datamodule.alignment,
    }
    sets = datamodule.benchmarks
    results = build_results(sets, model.last_results, facts, datamodule.synthetic, datamodule.missing, fars=config.fars)
    results["comparisons"] = compare(sets, model.last_results)
    tell_unhelped(results, unhelped(session.trainer))
    with side_file(session.failures, "report's hardest pairs"), torch.inference_mode():
        look = look_at_test(model.eval(), sets, config)
        add_hardest(folder / "report", results, sets, model.last_results, look, config.anonymous)
    with side_file(session.failures, "report"):
        write_report(folder / "report", results)
    with side_file(session.failures, "report pictures"):
        draw_report(folder / "report", results, run=folder, anonymous=config.anonymous)
    show(format_table(results))
    for name, entry in results["comparisons"].items():
        estimate, lower, upper = (f"{100 * entry[end]:+.2f}" for end in ("estimate", "lower", "upper"))
        show(f"{name}: {estimate} points [{lower}, {upper}]")
    show(f"run folder: {folder}")
