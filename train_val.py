"""The Recognizer: backbone, head, local matcher and occlusion head under weighted losses, and their validation."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, cast

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor, nn

import heads
import losses
import nets
import qaconv
import transforms
from config import Config
from datasets import PairSample, Sample
from engine import check_mode, diagnosis, guard, means, optim, updates
from evaluation import Description, FusionStatistics
from models import describe, unit_map
from tasks.recognition import matching, sharded_head, validation
from tasks.recognition.terms import feature_statistics

Scalars = dict[str, Tensor]

MAIN_DATASET = "0"  # name of the only head so far; several data sets will have a head each


class Recognizer(pl.LightningModule):
    """Face recogniser with a margin head, a QAConv matcher and an occlusion head.

    The total loss is
    w_head * head + w_qaconv * (pairwise + triplet_weight * (ranking + class entropy)) + w_occlusion * occlusion.

    Args:
        config: every option of the run, as `Config.to_dict()` gives it (primitives, so that a checkpoint loads
            with weights_only).
        num_classes, identities: how many there are, and a digest of their names if it is known, by data set.
    """

    def __init__(
        self, config: Mapping[str, Any], num_classes: Mapping[str, int], identities: Mapping[str, str] | None = None
    ) -> None:
        super().__init__()
        names = {} if identities is None else {"identities": dict(identities)}
        self.save_hyperparameters({"config": dict(config), "num_classes": dict(num_classes), **names})
        self.config = Config.from_dict(dict(config))
        c = self.config
        self.model = nets.build_model(c.arch, c.embedding_size)
        self.model.activation_checkpointing = c.activation_checkpointing
        self.num_classes = dict(num_classes)
        self.heads = nn.ModuleDict(
            {} if c.partial_fc_rate else {n: sharded_head.build_head(c, k) for n, k in num_classes.items()}
        )
        self.matcher = self._build_matcher(num_classes) if c.qaconv_loss_weight > 0 else None
        self.occlusion_head = self._build_occlusion_head()
        self.means = means.RunningMeans()
        self.fusion_weights = {"adaface": c.adaface_eval_weight, "qaconv": c.qaconv_eval_weight}
        self.fusion_statistics: FusionStatistics | None = None
        self.pair_scores = validation.PairScores()
        self.last_scores: dict[str, dict[str, validation.Scores]] = {}
        self.last_results: dict[str, dict[str, validation.MethodResults]] = {}
        self.guard = guard.UpdateGuard(c.on_nonfinite, c.max_skipped_steps)
        self._applied_lr, self._finished_step = 0.0, 0
        # NCCL cannot reduce a sparse gradient: it is averaged here, not by DDP. Shards differ from rank to rank.
        self._ddp_params_and_buffers_to_ignore = ["matcher.class_embeddings.weight"]
        self._ddp_params_and_buffers_to_ignore += [f"heads.{name}.weight" for name in num_classes]
        if c.check_mode:
            check_mode.enter(self)
        optim.freeze(self, sharded_head.check_frozen(c, num_classes))
        self.initial_heads: dict[str, dict[str, Tensor]] = {}  # what heads that are built later begin with
        self.to(memory_format=torch.channels_last)

    def configure_model(self) -> None:
        """Split the classes of a sharded head over the ranks, which are known only now; Lightning calls it."""
        for name, count in self.num_classes.items():
            if name not in self.heads:
                self.heads[name] = sharded_head.build_head(self.config, count)
            sharded_head.load_dense(self.heads[name], self.initial_heads.pop(name, {}))

    def _build_matcher(self, num_classes: Mapping[str, int]) -> qaconv.QAConv:
        c = self.config
        return qaconv.QAConv(
            *self.model.map_shape,
            occlusion_method=c.occlusion_method,
            score=c.qaconv_score,
            projection_channels=c.qaconv_channels or None,
            num_classes=num_classes[MAIN_DATASET] if c.class_embeddings else None,
            k_nearest=c.k_nearest,
        )

    def _build_occlusion_head(self) -> nets.OcclusionHead | None:
        c = self.config
        if c.occlusion_loss_weight == 0 and c.occlusion_method == "none":
            return None
        head = nets.OcclusionHead(self.model.map_shape[0])
        # Without a loss of its own and cut off from the matcher's, the head has no gradient: DDP must not wait for it.
        head.requires_grad_(c.occlusion_loss_weight > 0 or (self.matcher is not None and c.visibility_gradient))
        return head

    @property
    def head(self) -> heads.Head:
        """The margin head of the main data set."""
        return cast(heads.Head, self.heads[MAIN_DATASET])

    @property
    def not_averaged(self) -> tuple[str, ...]:
        """Class embeddings, of which a step touches a few in float16, and heads that are split over the ranks."""
        split = self.num_classes if self.config.partial_fc_rate else ()
        return ("matcher.class_embeddings.", *(f"heads.{name}." for name in split))

    def memory_plan(self, num_ranks: int = 1) -> str:
        """Return what a rank holds: network, head, and what else grows with identities or ranks; one line."""
        classes, states = self.num_classes[MAIN_DATASET], sharded_head.optimiser_states(self.config)
        size = sum(p.numel() * p.element_size() for p in self.model.parameters())
        parts = [f"backbone with gradient and optimiser state {sharded_head.megabytes((2 + states) * size)}"]
        parts.append(sharded_head.plan_memory(self.config, classes, num_ranks))
        if self.config.class_embeddings and self.matcher is not None:
            size, dtype = self.matcher.class_embedding_bytes(classes), "float16"
            if self.config.check_mode:
                size, dtype = 4 * size, "float64"
            how = f"all on every rank: {dtype}, without momentum, updated sparsely"
            parts.append(f"class embeddings {sharded_head.megabytes(size)}, {how}")
        if self.matcher is not None:
            parts += matching.plan_pairs(self.matcher, self.config, num_ranks)
        return "; ".join(parts)

    # ---------------------------------------------------------------- description of images

    def describe(self, images: Tensor) -> Description:
        """Return what evaluation compares: embedding, norm, unit local map and predicted visibility.

        Args:
            images: [B, 3, 112, 112] float32 in [-1, 1], RGB.
        Returns:
            Description with float32 tensors (float64 for --check_mode); visibility is None without an occlusion head.
        """
        return describe(self.model, self.occlusion_head, images.to(self.dtype))

    # ---------------------------------------------------------------- training

    def training_step(self, batch: Sample, batch_idx: int) -> Tensor:
        """Return the weighted loss of one batch; the host does not learn it here, which would make it wait.

        Lightning divides what is returned by `accumulate_grad_batches`. The last group of an epoch may hold fewer
        batches, and the loss of each then counts for more, so that every step takes the mean over its batches.
        """
        self.guard.watch(self)
        features, terms, accuracies = self._forward(batch, batch_idx, self.trainer.global_step)
        total = self._total(terms)
        values = {**{f"train_{name}_loss": term for name, term in terms.items()}, "train_loss": total, **accuracies}
        if self._is_logging_step():
            weights = self._loss_weights()
            values |= feature_statistics(features, {name: weights[name] * term for name, term in terms.items()})
        self.guard.add(guard.ForwardPass(batch, batch_idx, total, terms, values))
        return total * self._share_of_step(batch_idx)

    def _share_of_step(self, batch_idx: int) -> float:
        """Return `accumulate_grad_batches` over the number of batches in the group of a batch, 1 for a whole group."""
        size = self.trainer.accumulate_grad_batches
        left = int(self.trainer.num_training_batches) - batch_idx // size * size
        return size / min(size, left)

    def _forward(self, batch: Sample, batch_idx: int, step: int) -> tuple[nets.Features, Scalars, Scalars]:
        """Return features, loss terms and accuracies of a batch; `step` is the number of steps before it."""
        # Dropout draws depend on seed, step and rank alone, so a resumed run needs no generator state.
        key = (self.config.seed, step, batch_idx, self.global_rank)
        torch.manual_seed(int(np.random.SeedSequence(key).generate_state(1)[0]))
        features = self.model(transforms.to_tensor(batch.image).to(self.dtype))
        return features, *self._loss_terms(features, batch, step)

    def _loss_terms(self, features: nets.Features, batch: Sample, step: int) -> tuple[Scalars, Scalars]:
        """Return the unweighted loss terms and the accuracies of one batch, each a scalar."""
        self.head.margin_scale = self._margin_scale()
        loss, accuracy = self.head.loss(features, batch.label, step)
        terms, accuracies = {"head": loss}, {"train_head_acc": accuracy}
        visibility = None if self.occlusion_head is None else self.occlusion_head(features.feature_map)
        if self.matcher is not None:
            images = matching.Images(unit_map(features.feature_map), visibility, batch.label)
            found, accuracies["train_pairwise_acc"] = matching.matching_terms(self.matcher, self.config, images)
            terms.update(found)
        if visibility is not None and batch.visibility is not None and self.config.occlusion_loss_weight > 0:
            target = transforms.visibility_map(batch.visibility, *visibility.shape[-2:])
            terms["occlusion"] = losses.occlusion_loss(visibility, target)
        return terms, accuracies

    def _loss_weights(self) -> dict[str, float]:
        c = self.config
        triplet = c.qaconv_loss_weight * c.triplet_weight
        return {
            "head": c.adaface_loss_weight,
            "pairwise": c.qaconv_loss_weight,
            "triplet": triplet,
            "class": triplet,
            "occlusion": c.occlusion_loss_weight,
        }

    def _total(self, terms: dict[str, Tensor]) -> Tensor:
        weights = self._loss_weights()
        return torch.stack([weights[name] * term for name, term in terms.items()]).sum()

    def _margin_scale(self) -> float:
        """Return the share of the margin in force, rising linearly over the first margin_warmup_epochs."""
        ramp = self.config.margin_warmup_epochs * self.trainer.estimated_stepping_batches / self.config.epochs
        return min(1.0, self.trainer.global_step / ramp) if ramp else 1.0

    # ---------------------------------------------------------------- update

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Measure and clip the gradient, and update what the optimiser does not; what is not finite changes nothing."""
        self._applied_lr = optimizer.param_groups[0]["lr"]
        scaler = self._scaler()
        if scaler is not None:
            scaler.unscale_(optimizer)  # Lightning leaves this to fused optimisers
        weight = self._class_maps()
        if weight is not None and weight.grad is not None:
            weight.grad = updates.mean_over_ranks(weight.grad)
        named = {name: p for name, p in self.named_parameters() if p.grad is not None}
        split = sharded_head.find_shards(self.heads)
        norms, norm = sharded_head.gradient_norms(named, split)
        step = self.trainer.global_step
        diagnose = partial(self._first_bad_module, step)
        accepted, passes = self.guard.judge(step + 1, norms, norm, diagnose, scaled=scaler is not None)
        for forward_pass in passes:
            self.means.add(forward_pass.values, accepted)
        self.means.add({"grad_norm": norm}, accepted)
        if self.config.gradient_clip_val:
            updates.clip_gradients(list(named.values()), self.config.gradient_clip_val, norm)
        if weight is not None:
            # The optimiser would touch the maps of every class; those that took part in the step are enough.
            decay, rounding = self.config.weight_decay, self._rounding(weight)
            optim.sparse_sgd_step(weight, self._applied_lr, decay, rounding, accepted)
            weight.grad = None
        for shard in split.values():
            shard.sgd_step(self._applied_lr, self.config.momentum, self.config.weight_decay, accepted)
        updates.void(optimizer, (~accepted).float(), scaler)

    def _first_bad_module(self, step: int, batch: Sample, batch_idx: int) -> str | None:
        """Repeat a forward pass; the weights are still what they were, because its update was void."""
        with self.trainer.precision_plugin.train_step_context():
            return diagnosis.first_bad_module(self, lambda: self._forward(batch, batch_idx, step))

    def _rounding(self, weight: Tensor) -> torch.Generator:
        """Return the generator that this step rounds with, on every rank the same."""
        key = np.random.SeedSequence((self.config.seed, self.trainer.global_step)).generate_state(1)
        return torch.Generator(weight.device).manual_seed(int(key[0]))

    def _class_maps(self) -> Tensor | None:
        embeddings = None if self.matcher is None else self.matcher.class_embeddings
        return None if embeddings is None else embeddings.weight

    def on_train_start(self) -> None:
        """Find each class's first neighbours; a resumed run has them in its checkpoint."""
        self._finished_step = self.trainer.global_step
        if self.trainer.global_step == 0:
            self._refresh_neighbours()

    def on_train_epoch_end(self) -> None:
        """Refresh the neighbour classes, before the checkpoint of the epoch is written."""
        self.guard.settle()
        self._refresh_neighbours()

    def _refresh_neighbours(self) -> None:
        if self.matcher is not None and self.matcher.class_embeddings is not None:
            self.matcher.set_neighbours(self.head.class_weights())

    # ---------------------------------------------------------------- logging

    def _is_logging_step(self) -> bool:
        return (self.trainer.global_step + 1) % self.config.log_every_n_steps == 0

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Log the means of the last steps every log_every_n_steps and at the end of an epoch."""
        step = self.trainer.global_step
        if step == self._finished_step:
            return  # gradients are still being accumulated
        self._finished_step = step
        if step % self.config.log_every_n_steps == 0 or self.trainer.is_last_batch:
            self._log_means(step)
        if step % 1000 == 0 and self.occlusion_head is not None:
            norms = {f"occlusion_head/{n}": float(p.detach().norm()) for n, p in self.occlusion_head.named_parameters()}
            self._log_now(norms, step)

    def _log_means(self, step: int) -> None:
        self.guard.settle()
        values = self.means.take() | {"lr": self._applied_lr, "epoch": self.trainer.current_epoch}
        values |= {"skipped_steps": self.guard.skipped, "margin_scale": self.head.margin_scale}
        self._log_now(values, step)

    def _log_now(self, values: Mapping[str, float], step: int) -> None:
        for run_logger in self.loggers:
            run_logger.log_metrics(dict(values), step=step)

    # ---------------------------------------------------------------- optimiser

    def configure_optimizers(self) -> Any:
        """Return optimiser and per-step schedule as the options say."""
        c = self.config
        groups = optim.parameter_groups([self], c.weight_decay)
        optimizer = optim.build_optimizer(c.optimizer, groups, c.lr, c.momentum, fused=self._is_fused())
        total = int(self.trainer.estimated_stepping_batches)
        per_epoch = total / c.epochs
        milestones = tuple(round(epoch * per_epoch) for epoch in c.lr_milestones)
        plan = optim.SchedulePlan(total, c.warmup_steps, milestones, c.lr_gamma)
        scheduler = optim.build_scheduler(optimizer, c.lr_schedule, plan)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def _is_fused(self) -> bool:
        """Return whether a step must be voided on the device; the CPU knows the numbers as soon as the host does."""
        return self.device.type != "cpu" or self._scaler() is not None

    def _scaler(self) -> torch.amp.GradScaler | None:
        return getattr(self.trainer.precision_plugin, "scaler", None)

    # ---------------------------------------------------------------- validation and test, the same code

    def validation_step(self, batch: PairSample, batch_idx: int) -> None:
        """Score one batch of benchmark pairs; nothing but the scores is kept."""
        match_pairs = None if self.matcher is None else self.matcher.match_pairs
        self.pair_scores.add(self.describe, match_pairs, batch, self.device)

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
        if problem := validation.find_nonfinite(self.last_scores):
            raise guard.NonFiniteError(
                f"{stage} after step {self.trainer.global_step}: {problem}; lower --lr or warm up"
            )
        self.fusion_statistics = validation.pooled_statistics(self.last_scores, benchmarks, self.fusion_weights)
        self.last_results = validation.evaluate(self.last_scores, benchmarks, self.fusion_weights)
        metrics = validation.metrics(self.last_results, stage)
        # Every rank has every score, so the value is equal everywhere and needs no reduction.
        self.log_dict(metrics, logger=False)
        self._log_now(metrics, self.trainer.global_step)

    # ---------------------------------------------------------------- checkpoint

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store what the weights alone do not tell: colour order, fusion statistics, steps skipped."""
        self.guard.settle()
        checkpoint["color_space"] = "rgb"
        statistics = self.fusion_statistics
        checkpoint["fusion_statistics"] = None if statistics is None else statistics.to_dict()
        checkpoint["skipped_steps"] = self.guard.skipped
        sharded_head.gather_into(checkpoint, sharded_head.find_shards(self.heads))

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore them; a checkpoint in another colour order is refused.

        Raises:
            ValueError: if the checkpoint does not say that it expects RGB.
        """
        if checkpoint.get("color_space") != "rgb":
            raise ValueError(f"checkpoint: color_space is {checkpoint.get('color_space')!r}, expected 'rgb'")
        statistics = checkpoint["fusion_statistics"]
        self.fusion_statistics = None if statistics is None else FusionStatistics.from_dict(statistics)
        self.guard.skipped = checkpoint.get("skipped_steps", 0)
        sharded_head.restore_momentum(checkpoint, sharded_head.find_shards(self.heads))
