"""One update as any task makes it, without a trainer and without data, for the checks of updates."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine import optim
from engine.composite import CompositeOptimizer, ShardSGD, SparseSGD
from engine.module import Step, Terms, TrainingModule
from heads import PartialFC, build_head
from options.engine import EngineOptions

CLASSES, SIDE = 10, 12
OPTIONS = EngineOptions(lr=0.05, on_nonfinite="skip")


class SmallFaces(TrainingModule):
    """A net with everything that a skipped step has to leave alone; a batch is images, labels and a factor."""

    def __init__(self, options: EngineOptions) -> None:
        super().__init__(options)
        self.body = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.PReLU(8), nn.Flatten(), nn.Linear(8 * SIDE**2, 16)
        )
        self.head = build_head("adaface", 16, CLASSES)
        self.shard = PartialFC(build_head("adaface", 16, CLASSES), CLASSES, rate=1.0, seed=0)
        self.class_maps = nn.Parameter(torch.randn(CLASSES, 16).half())  # with a sparse gradient
        self.class_maps.grad_dtype = torch.float32
        self.shard_sgd = ShardSGD(self.shard.weight)
        self.parts = [SparseSGD(self.class_maps, options.seed), self.shard_sgd]

    def forward_terms(self, batch: Any, step: Step) -> Terms:
        """Return three terms of weight 1, times the factor of the batch."""
        features = self.body(batch.images).float()
        norms = features.norm(dim=1, keepdim=True)
        unit = features / norms.clamp_min(1e-6)
        maps = F.embedding(batch.index, self.class_maps, sparse=True).float()
        losses = {
            "head": F.cross_entropy(self.head(unit, norms, batch.index), batch.index),
            "shard": self.shard(unit, norms, batch.index, step.number).loss,
            "maps": (unit - maps).square().mean(),
        }
        return Terms({name: (1.0, loss * batch.factor) for name, loss in losses.items()}, {})


class Training:
    """A module, its optimizer and perhaps a loss scaler on one device.

    Attributes:
        scaler: None: no loss scaling, and float32; else float16 under autocast.
        steps: made so far; may be set.
    """

    def __init__(self, device: torch.device, optimizer: str, initial_scale: float | None = None) -> None:
        torch.manual_seed(0)
        self.device = device
        self.model = SmallFaces(OPTIONS).to(device).train()
        groups = optim.parameter_groups([self.model], OPTIONS.weight_decay)
        whole = optim.build_optimizer(optimizer, groups, OPTIONS.lr, OPTIONS.momentum, fused=True)
        self.optimizer = CompositeOptimizer(whole, self.model.parts)
        self.guard = self.model.guard
        self.scaler = (
            None if initial_scale is None else torch.amp.GradScaler(device.type, initial_scale, growth_interval=1000)
        )
        self.steps = 0

    def batch(self, number: int) -> tuple[Tensor, Tensor]:
        """Return images and labels, the same for the same number."""
        generator = torch.Generator().manual_seed(number)
        images = torch.randn(8, 3, SIDE, SIDE, generator=generator)
        return images.to(self.device), torch.randint(CLASSES, (8,), generator=generator).to(self.device)

    def step(self, batches: Sequence[tuple[Tensor, Tensor]], factors: Sequence[float] | None = None) -> None:
        """Make one update of some accumulated batches.

        Args:
            factors: what the loss of each batch is multiplied by: NaN spoils it; None: 1 each.
        """
        trainer: Any = SimpleNamespace(
            global_step=self.steps,
            global_rank=0,
            accumulate_grad_batches=len(batches),
            num_training_batches=len(batches),
            precision_plugin=SimpleNamespace(scaler=self.scaler, train_step_context=self._autocast),
        )
        self.model.trainer = trainer

        def closure() -> None:
            for number, ((images, labels), factor) in enumerate(
                zip(batches, factors or [1.0] * len(batches), strict=True)
            ):
                with self._autocast():
                    batch: Any = SimpleNamespace(images=images, index=labels, factor=factor)
                    share = self.model.training_step(batch, number) / len(batches)
                (share if self.scaler is None else self.scaler.scale(share)).backward()

        self.model.optimizer_step(0, 0, self.optimizer, closure)
        self.optimizer.zero_grad()
        self.steps += 1

    def _autocast(self) -> Any:
        return torch.autocast(self.device.type, torch.float16) if self.scaler else nullcontext()

    def weights(self) -> Tensor:
        """Return all weights in one row on the CPU, but those that are rounded at random."""
        kept = [p for p in self.model.parameters() if p is not self.model.class_maps]
        return torch.cat([p.detach().cpu().flatten() for p in kept])

    def state(self) -> dict[str, Tensor]:
        """Return copies of weights, running statistics and what the optimizers keep, on the CPU."""
        found = dict(self.model.state_dict())
        for number, kept in enumerate(self.optimizer.state.values()):
            found |= {f"optimizer.{number}.{name}": value for name, value in kept.items() if isinstance(value, Tensor)}
        if self.model.shard_sgd.momentum is not None:
            found["shard.momentum"] = self.model.shard_sgd.momentum
        return {name: value.detach().cpu().clone() for name, value in found.items()}
