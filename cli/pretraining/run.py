"""What the program behind `main.py pretrain` says of its task; cli/runs does the rest."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

import nets
from cli.pretraining.checkpoints import DATA, check_data, read_to_resume
from cli.runs import session
from config import PretrainingConfig
from engine.callbacks import LAST, UnreadableList
from engine.devices import world_size
from engine.files import WriteFailures
from evaluation import METHODS
from evaluation.run import CONDITIONS
from system.cores import usable_workers
from system.terminal import show
from tasks.moco.data import PretrainingData
from tasks.moco.module import ENCODERS, Pretrainer
from tasks.moco.refresh import ClusterRefresh
from tasks.sample_sheet import SampleSheet
from tasks.score_histograms import ScoreHistograms
from tasks.validation import metric_names

logger = logging.getLogger(__name__)


class Pretraining(session.Task[PretrainingConfig, PretrainingData, Pretrainer]):
    """Pretraining as `cli.runs.session` runs it."""

    program = "pretrain"
    place = DATA
    fast_batch = 8

    def read(self, path: str | Path) -> dict[str, Any]:
        """Return a checkpoint that a run can go on from."""
        return read_to_resume(path)

    def check_resumed(
        self, path: str, checkpoint: Mapping[str, Any], config: PretrainingConfig, data: PretrainingData
    ) -> None:
        """Refuse a checkpoint of other images."""
        check_data(path, checkpoint, data)

    def open_data(self, config: PretrainingConfig) -> PretrainingData:
        """Return the images, not set up."""
        return PretrainingData(config, world_size(config))

    def metrics(self, data: PretrainingData) -> list[str]:
        """Return the accuracies on labeled sets."""
        return [*metric_names(data.benchmarks, CONDITIONS[:1], METHODS[:1]), *data.votes.names()]

    def build(self, config: PretrainingConfig, data: PretrainingData) -> Pretrainer:
        """Return the model to train."""
        model = Pretrainer(config.to_dict(), data.num_images, data.images)
        backbone = model.backbone
        if config.start_from_model_statedict is not None:
            nets.load_weights(backbone, config.start_from_model_statedict, config.color_space)
            model.contrast.restart_key()
            logger.info("%s: took the backbone", config.start_from_model_statedict)
        if config.compile:
            backbone.compile()  # in place: checkpoints keep the names of the parameters
        return model

    def callbacks(
        self, config: PretrainingConfig, data: PretrainingData, folder: Path | None, failures: WriteFailures
    ) -> list[pl.Callback]:
        """Return what clusters, and what shows the data and the scores."""
        callbacks: list[pl.Callback] = [ClusterRefresh(folder, failures, usable_workers(config.num_workers))]
        if not config.fast_dev_run:
            callbacks += [
                SampleSheet(folder, failures),
                UnreadableList(folder, config.max_bad_fraction, failures),
                *([ScoreHistograms(folder, failures)] if data.benchmarks else []),
            ]
        return callbacks

    def announce(self, config: PretrainingConfig, data: PretrainingData, model: Pretrainer) -> None:
        """Log model, images and queue."""
        count = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
        logger.info("model: %s, %s parameters are trained, as many follow them", config.arch, f"{count:,}")
        logger.info(
            "data: %d images, labels not looked at; steps: %d in %d epochs; the queue holds %.1f batches",
            data.num_images, data.num_steps, config.epochs, config.queue_size / config.batch_size,
        )  # fmt: skip
        if config.queue_size > data.num_images:
            logger.warning(
                "--queue_size %d is more than the %d images: it holds keys of each from several steps, which are left"
                " out of the negatives of its own; give %d or less", config.queue_size, data.num_images,
                max(config.batch_size, data.num_images // 2),
            )  # fmt: skip
        if config.key_norm == "sync" and world_size(config) == 1:
            logger.warning(
                "--key_norm sync on one rank: queries and keys share their statistics, which leaks; use shuffle"
            )

    def tell_end(self, folder: Path) -> None:
        """Say where the encoders are."""
        path = folder / LAST
        if path.exists():
            show(f"{path}: the pretrained encoders, {' and '.join(ENCODERS)}")
        show(f"run folder: {folder}")


prepare = partial(session.prepare, Pretraining())
run = session.run
