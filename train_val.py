"""The Recognizer: backbone, head, local matcher and occlusion head under weighted losses, and their validation."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, cast

import torch
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor, nn

import heads
import models
from config import Config
from datasets import PairSample, Sample
from engine import optim
from engine.composite import ShardSGD, SparseSGD
from engine.module import Step, Terms, TrainingModule, enter_check_mode
from evaluation import Description, FusionStatistics, ScoreNormalization
from evaluation.run import Scores, SetResults, evaluate, pooled_statistics
from tasks import validation
from tasks.recognition import paired_nets, sharded_head
from tasks.recognition.modulation import Modulation
from tasks.recognition.score_matrix import MergedPeople
from tasks.recognition.terms import Forward, Judges, feature_statistics, images_of, see, weighted_losses


class Recognizer(TrainingModule):
    """Face recognizer with a margin head, a QAConv matcher and an occlusion head; `terms.TERMS` are its loss.

    Args:
        config: every option of the run, in primitives, as `Config.to_dict()` gives it and a checkpoint keeps it.
        num_classes, identities: how many there are, and a digest of their names if it is known, by data set.
    """

    def __init__(
        self, config: Mapping[str, Any], num_classes: Mapping[str, int], identities: Mapping[str, str] | None = None
    ) -> None:
        c = Config.from_dict(dict(config))
        sharded_head.check_several_sets(c, num_classes)
        super().__init__(c)
        names = {} if identities is None else {"identities": dict(identities)}
        self.save_hyperparameters({"config": dict(config), "num_classes": dict(num_classes), **names})
        self.model = models.build_backbone(c, c.seed)
        self.model.activation_checkpointing = c.activation_checkpointing
        self.num_classes = dict(num_classes)
        self.heads = nn.ModuleDict({} if c.partial_fc_rate else sharded_head.build_heads(c, num_classes))
        matched_classes = sum(num_classes.values()) if c.class_embeddings else None
        self.matcher = models.build_matcher(c, self.model.map_shape, matched_classes)
        self.occlusion_head = models.build_occlusion_head(c, self.model)
        self.modulator = models.build_modulator(c, self.model, len(num_classes))
        if self.occlusion_head is not None:
            # Without a loss of its own and cut off from the matcher's it has no gradient either.
            reached = self.matcher is not None and c.visibility_gradient
            self.occlusion_head.requires_grad_(c.occlusion_loss_weight > 0 or reached)
        self.fusion_weights = {"adaface": c.adaface_eval_weight, "qaconv": c.qaconv_eval_weight}
        self.fusion_statistics: FusionStatistics | None = None
        self.normalization: ScoreNormalization | None = None
        self.pair_scores = validation.PairScores()
        self.last_scores: dict[str, dict[str, Scores]] = {}
        self.last_results: SetResults = {}
        # Of class embeddings a step touches a few, in float16; of a split head a rank has a part.
        self.not_averaged = ("matcher.class_embeddings.", *(f"heads.{n}." for n in num_classes if c.partial_fc_rate))
        self.shards: dict[str, sharded_head.Shard] = {}
        if self.matcher is not None and self.matcher.class_embeddings is not None:
            self.parts.append(SparseSGD(self.matcher.class_embeddings.weight, c.seed))
        if c.check_mode:
            enter_check_mode(self)
        optim.freeze(self, sharded_head.check_frozen(c, num_classes))
        sharded_head.check_patterns(self, num_classes)
        self.beside = paired_nets.PairedNets()
        self.merged: MergedPeople | None = None  # people who are in several data sets
        self.loaded: tuple[str, ...] = ()  # parts that a new run has from a file
        self.initial_heads: dict[str, dict[str, Tensor]] = {}  # what heads that are built later begin with
        self.to(memory_format=torch.channels_last if c.channels_last else torch.contiguous_format)

    @property
    def config(self) -> Config:
        """Return the options of the run."""
        return cast(Config, self.options)

    def configure_model(self) -> None:
        """Split the classes of a sharded head over the ranks, which are known only now; Lightning calls it."""
        for name in self.num_classes:
            if name not in self.heads:
                head = self.heads[name] = sharded_head.build_heads(self.config, self.num_classes)[name]
                if isinstance(head, heads.PartialFC):
                    self.shards[name] = sharded_head.Shard(head, ShardSGD(head.weight))
                    self.parts.append(self.shards[name].optimizer)
            sharded_head.load_dense(self.heads[name], self.initial_heads.pop(name, {}))

    @property
    def head(self) -> heads.Head:
        """The margin head of the first data set, in most runs the only one."""
        return next(cast(heads.Head, head) for head in self.heads.values())

    # ---------------------------------------------------------------- description of images

    def describe(self, images: Tensor) -> Description:
        """Return what evaluation compares: embedding, norm, unit local map and predicted visibility.

        Args:
            images: [B, 3, 112, 112] float32 in [-1, 1], RGB.
        Returns:
            Description with float32 tensors (float64 for --check_mode); visibility is None without an occlusion head.
        """
        return models.describe(self.model, self.occlusion_head, images.to(self.dtype), self.modulator)

    # ---------------------------------------------------------------- training

    def forward_terms(self, batch: Sample, step: Step) -> Terms:
        """Return the weighted loss terms of a batch, and what is measured beside."""
        images = images_of(batch, self.beside.enlarged).to(self.dtype)
        features, visibility = see((self.model, self.occlusion_head), self.beside, batch, images, step.is_logged)
        by_set = cast(dict[str, heads.Head], dict(self.heads.items()))
        for head in by_set.values():
            head.margin_scale = self._margin_scale()
        lesson = partial(self.beside.lesson, batch.image, images.dtype)
        modulation = None if self.modulator is None else Modulation(self.modulator, batch, images)
        judges = Judges(by_set, self.matcher, self.merged, lesson, modulation)
        forward = Forward(self.config, judges, features, visibility, batch, step.number)
        weighted = weighted_losses(forward)
        return Terms(weighted, forward.values | (feature_statistics(forward, weighted) if step.is_logged else {}))

    def _margin_scale(self) -> float:
        """Return the share of the margin in force, rising linearly over the first margin_warmup_epochs."""
        ramp = self.config.margin_warmup_epochs * self.trainer.estimated_stepping_batches / self.config.epochs
        return min(1.0, self.trainer.global_step / ramp) if ramp else 1.0

    def on_train_start(self) -> None:
        """Find each class's first neighbours; a resumed run has them in its checkpoint."""
        super().on_train_start()
        if self.trainer.global_step == 0:
            self._refresh_neighbours()

    def on_train_epoch_end(self) -> None:
        """Refresh the neighbour classes, before the checkpoint of the epoch is written."""
        super().on_train_epoch_end()
        self._refresh_neighbours()

    def _refresh_neighbours(self) -> None:
        if self.matcher is not None and self.matcher.class_embeddings is not None:
            self.matcher.set_neighbours(self.head.class_weights())

    def logged_values(self) -> dict[str, float]:
        """Return the margin in force."""
        return {"margin_scale": self.head.margin_scale}

    def after_update(self, step: int) -> None:
        """Log the norms of the occlusion head's parameters now and then."""
        if step % 1000 == 0 and self.occlusion_head is not None:
            norms = {f"occlusion_head/{n}": float(p.detach().norm()) for n, p in self.occlusion_head.named_parameters()}
            self.log_now(norms, step)

    # ---------------------------------------------------------------- validation and test, the same code

    def validation_step(self, batch: PairSample, batch_idx: int) -> None:
        """Score one batch of benchmark pairs; nothing but the scores is kept."""
        if batch_idx == 0 and self.trainer.state.fn == TrainerFn.FITTING:
            cohort = self.trainer.datamodule.cohort  # type: ignore[attr-defined]  # Lightning attaches it
            self.normalization = validation.learn_normalization(
                self.describe, self.matcher, cohort, self.fusion_weights, self.device
            )
        self.pair_scores.add(self.describe, self.matcher, batch, self.device, self.normalization)

    test_step = validation_step

    def on_validation_epoch_start(self) -> None:
        """Forget the scores of the validation before."""
        self.pair_scores.clear()

    on_test_epoch_start = on_validation_epoch_start

    def on_validation_epoch_end(self) -> None:
        """Evaluate all pairs of all ranks and log the accuracies under `val_`."""
        self._finish_evaluation("val")

    def on_test_epoch_end(self) -> None:
        """Evaluate all pairs of all ranks and log the accuracies under `test_`."""
        self._finish_evaluation("test")

    def _finish_evaluation(self, stage: str) -> None:
        if self.config.fast_dev_run:
            return  # a single batch of pairs supports no ten folds
        benchmarks = self.trainer.datamodule.benchmarks  # type: ignore[attr-defined]  # Lightning attaches it
        self.last_scores = self.pair_scores.gather(benchmarks)
        validation.check_finite(self.last_scores, f"{stage} after step {self.trainer.global_step}")
        self.fusion_statistics = pooled_statistics(benchmarks, self.last_scores, self.fusion_weights)
        self.last_results = evaluate(benchmarks, self.last_scores, self.fusion_weights)
        metrics = validation.metrics(self.last_results, stage)
        # Every rank has every score, so the value is equal everywhere and needs no reduction.
        self.log_dict(metrics, logger=False)
        self.log_now(metrics, self.trainer.global_step)

    # ---------------------------------------------------------------- checkpoint

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store what the weights alone do not tell: color order, what scores mean, momentum of shards."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["color_space"] = "rgb"
        checkpoint["fusion_statistics"] = None if self.fusion_statistics is None else self.fusion_statistics.to_dict()
        checkpoint["score_normalization"] = None if self.normalization is None else self.normalization.to_dict()
        sharded_head.gather_into(checkpoint, self.shards)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore them; a checkpoint in another color order is refused.

        Raises:
            ValueError: if the checkpoint does not say that it expects RGB.
        """
        super().on_load_checkpoint(checkpoint)
        if checkpoint.get("color_space") != "rgb":
            raise ValueError(f"checkpoint: color_space is {checkpoint.get('color_space')!r}, expected 'rgb'")
        statistics = checkpoint["fusion_statistics"]
        self.fusion_statistics = None if statistics is None else FusionStatistics.from_dict(statistics)
        learned = checkpoint.get("score_normalization")  # checkpoints written before there was one have none
        self.normalization = None if learned is None else ScoreNormalization.from_dict(learned)
        sharded_head.restore_momentum(checkpoint, self.shards)
