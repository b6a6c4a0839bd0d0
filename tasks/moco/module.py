"""The pretrainer: momentum contrast as a task of the engine."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor

import nets
import transforms
from config import PretrainingConfig
from datasets import PairSample, Sample
from engine.module import Step, Terms, TrainingModule, enter_check_mode
from evaluation import Description
from evaluation.run import SetResults, evaluate
from ops import unit_map
from tasks import validation
from tasks.moco import watch
from tasks.moco.contrast import MomentumContrast, Rules, Side, momentum_at
from tasks.moco.data import PretrainingData
from tasks.moco.encoder import Encoder, build_projector
from tasks.moco.queue import KeyQueue
from tasks.moco.votes import SetVotes

logger = logging.getLogger(__name__)
TASK = "moco"  # what a checkpoint's hyper-parameters call it
ENCODERS = {"query": "contrast.query.backbone.", "key": "contrast.key.backbone."}


class Pretrainer(TrainingModule):
    """Momentum contrast on images without labels.

    Args:
        config: every option of the run, as `PretrainingConfig.to_dict()` gives it.
        num_images: how many images there are.
        images: a digest of their names, if it is known.
    Attributes:
        contrast: the encoders and the queue.
        clusters: [num_images] int64, the cluster of each image by the last clustering, -1 = none.
        generation: [] int64, how often images were clustered so far.
        last_results: of the last validation.
    """

    clusters: Tensor
    generation: Tensor
    not_statistics = ("contrast.queue.",)

    def __init__(self, config: Mapping[str, Any], num_images: int, images: str | None = None) -> None:
        c = PretrainingConfig.from_dict(dict(config))
        super().__init__(c)
        digest = {} if images is None else {"images": images}
        self.save_hyperparameters({"task": TASK, "config": dict(config), "num_images": num_images, **digest})
        backbone = nets.build_model(c.arch, c.embedding_size)
        backbone.activation_checkpointing = c.activation_checkpointing
        query = Encoder(backbone, build_projector(c.projector, c.embedding_size, c.projection_size))
        rules = Rules(c.contrast_margin, c.temperature, c.left_out_top_k, c.key_norm, c.key_groups, c.seed)
        self.contrast = MomentumContrast(query, KeyQueue(c.queue_size, c.projection_size), rules)
        self.register_buffer("clusters", torch.full((num_images,), -1))
        self.register_buffer("generation", torch.zeros((), dtype=torch.long))
        self.pair_scores = validation.PairScores()
        self.last_results: SetResults = {}
        self._pending: tuple[Tensor, Tensor] | None = None
        if c.check_mode:
            enter_check_mode(self)
        self.check_patterns()
        self.to(memory_format=torch.channels_last if c.channels_last else torch.contiguous_format)

    @property
    def config(self) -> PretrainingConfig:
        """Return the options of the run."""
        return cast(PretrainingConfig, self.options)

    @property
    def _ddp_params_and_buffers_to_ignore(self) -> list[str]:
        """Also the queue and the clusters, equal on all ranks by themselves: DDP would broadcast them in each step."""
        own = [name for name, _ in self.named_buffers() if name.startswith(("contrast.queue.", "clusters"))]
        return [*super()._ddp_params_and_buffers_to_ignore, *own]

    @property
    def backbone(self) -> nets.Backbone:
        """The query encoder's backbone, which is what is kept in the end."""
        query = self.contrast.query
        assert isinstance(query, Encoder)
        return query.backbone

    # ---------------------------------------------------------------- clusters

    @torch.no_grad()
    def relabel(self, clusters: Tensor) -> None:
        """Take another clustering of the images, the same on every rank; keys in the queue stay and follow it.

        Args:
            clusters: [num_images] int64, -1 = none.
        Raises:
            ValueError: if they are not of as many images.
        """
        if clusters.shape != self.clusters.shape or clusters.dtype != torch.int64:
            raise ValueError(
                f"Pretrainer.relabel: clusters must be int64 [{len(self.clusters)}], got {clusters.dtype} "
                f"{[*clusters.shape]}"
            )
        self.clusters.copy_(clusters)
        self.generation.add_(1)
        self.contrast.queue.relabel(self.clusters)

    # ---------------------------------------------------------------- training

    def on_train_batch_start(self, batch: Sample, batch_idx: int) -> None:
        """Let the key encoder follow once for each update, before the first of its batches."""
        if batch_idx % self.trainer.accumulate_grad_batches == 0:
            self.contrast.follow(self._momentum())

    def _momentum(self) -> float:
        c, total = self.config, int(self.trainer.estimated_stepping_batches)
        return momentum_at(self.trainer.global_step, total, c.key_momentum, c.key_momentum_schedule)

    def forward_terms(self, batch: Sample, step: Step) -> Terms:
        """Return the loss of a batch against the queue as it is, and what is measured beside."""
        second = batch.second
        assert second is not None, "PairedView makes two views"
        views = [batch, second]
        images = [transforms.to_tensor(view.image).to(self.dtype) for view in views]
        sides = [Side(view.index, self.clusters[view.index]) for view in views]
        ways = [(0, 1), (1, 0)] if self.config.symmetric else [(0, 1)]
        losses, values = [], dict[str, Tensor]()
        for way, (asked, answered) in enumerate(ways):
            queries = self.contrast.encode_queries(images[asked])
            keys = self.contrast.encode_keys(images[answered], step.number, way)
            compared = self.contrast.compare(queries, keys, sides[asked], sides[answered])
            losses.append(compared.loss.mean())
            if way == 0:
                self._pending = (keys, second.index)
                if step.is_logged:
                    values = watch.compared_values(compared, self.contrast.rules) | watch.spread_values(queries, keys)
        return Terms({"nce": (1.0, torch.stack(losses).mean())}, values)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Enqueue the keys of the batch: its backward pass, which reads the queue, is done."""
        pending, self._pending = self._pending, None
        if pending is not None:
            keys, images = pending
            self.contrast.enqueue(keys, images, self.clusters[images])
        super().on_train_batch_end(outputs, batch, batch_idx)

    def logged_values(self) -> dict[str, float]:
        """Return the key encoder's momentum."""
        return {"key_momentum": self._momentum()}

    def log_now(self, values: Mapping[str, float], step: int) -> None:
        """Give every logger a row, and say it when the loss is that of a collapsed encoder."""
        super().log_now(values, step)
        if (text := watch.collapse(dict(values), step)) and self.trainer.is_global_zero:
            logger.warning("%s", text)

    # ---------------------------------------------------------------- a report on labeled sets

    def describe(self, images: Tensor) -> Description:
        """Return embedding, norm and unit map by the query encoder's backbone of images [B, 3, 112, 112]."""
        features = self.backbone(images.to(self.dtype))
        return Description(features.embedding, features.norm, unit_map(features.feature_map), None)

    def validation_step(self, batch: PairSample, batch_idx: int) -> None:
        """Score one batch of labeled pairs; nothing of it reaches the training."""
        described = self.pair_scores.add(self.describe, None, batch, self.device)
        self._votes().add(batch, described.embedding)

    def on_validation_epoch_start(self) -> None:
        """Forget the validation before."""
        self.pair_scores.clear()
        self._votes().clear()

    def on_validation_epoch_end(self) -> None:
        """Evaluate all pairs of all ranks, let neighbors vote, and log the accuracies under `val_`."""
        if self.config.fast_dev_run:
            return  # a single batch of pairs supports no ten folds
        benchmarks = self.trainer.datamodule.benchmarks  # type: ignore[attr-defined]  # Lightning attaches it
        scores = self.pair_scores.gather(benchmarks)
        validation.check_finite(scores, f"val after step {self.trainer.global_step}")
        self.last_results = evaluate(benchmarks, scores, {"adaface": 1.0})
        metrics = validation.metrics(self.last_results, "val") | self._votes().accuracies()
        self.log_dict(metrics, logger=False)
        self.log_now(metrics, self.trainer.global_step)

    def _votes(self) -> SetVotes:
        data: PretrainingData = self.trainer.datamodule  # type: ignore[attr-defined]  # Lightning attaches it
        return data.votes

    # ---------------------------------------------------------------- checkpoint

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store the color order beside the weights; the queue and the clusters are among these."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["color_space"] = "rgb"
