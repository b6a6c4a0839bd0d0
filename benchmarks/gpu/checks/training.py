"""One update as every task makes it, without Lightning and without data, for the checks of updates."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine import optim
from engine.composite import CompositeOptimizer, Judges, ShardSGD, SparseSGD
from engine.guard import ForwardPass, RunningMeans, UpdateGuard
from heads import PartialFC, build_head

CLASSES, SIDE = 10, 12
LR, MOMENTUM, WEIGHT_DECAY = 0.05, 0.9, 5e-4


class SmallFaces(nn.Module):
    """A net with everything that a skipped step has to leave alone."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.PReLU(8), nn.Flatten(), nn.Linear(8 * SIDE**2, 16)
        )
        self.head = build_head("adaface", 16, CLASSES)
        self.shard = PartialFC(build_head("adaface", 16, CLASSES), CLASSES, rate=1.0, seed=0)
        self.class_maps = nn.Parameter(torch.randn(CLASSES, 16).half())  # with a sparse gradient
        self.class_maps.grad_dtype = torch.float32

    def forward(self, images: Tensor, labels: Tensor, step: int) -> Tensor:
        """Return the loss."""
        features = self.body(images).float()
        norms = features.norm(dim=1, keepdim=True)
        unit = features / norms.clamp_min(1e-6)
        maps = F.embedding(labels, self.class_maps, sparse=True).float()
        split = self.shard(unit, norms, labels, step).loss
        return F.cross_entropy(self.head(unit, norms, labels), labels) + split + (unit - maps).square().mean()


class Training:
    """A model, its optimizer, its guard and perhaps a loss scaler on one device.

    Attributes:
        scaler: None: no loss scaling, and float32; else float16 under autocast.
    """

    def __init__(self, device: torch.device, optimizer: str, initial_scale: float | None = None) -> None:
        torch.manual_seed(0)
        self.device = device
        self.model = SmallFaces().to(device).train()
        groups = optim.parameter_groups([self.model], WEIGHT_DECAY)
        whole = optim.build_optimizer(optimizer, groups, LR, MOMENTUM, fused=True)
        self.shard_sgd = ShardSGD(self.model.shard.weight)
        self.optimizer = CompositeOptimizer(whole, [SparseSGD(self.model.class_maps, seed=0), self.shard_sgd])
        self.guard = UpdateGuard("skip", 100)
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
        for (images, labels), factor in zip(batches, factors or [1.0] * len(batches), strict=True):
            self.guard.watch(self.model)
            half = torch.autocast(self.device.type, torch.float16) if self.scaler else nullcontext()
            with half:
                loss = self.model(images, labels, self.steps) * factor
            batch: Any = SimpleNamespace(index=labels)
            self.guard.add(ForwardPass(batch, 0, loss, {"head": loss}, {}))
            share = loss / len(batches)
            (share if self.scaler is None else self.scaler.scale(share)).backward()
        self._update()

    def _update(self) -> None:
        judges = Judges(self.guard, RunningMeans(), lambda batch, index: None)
        self.optimizer.guarded_step(self.model.named_parameters(), judges, self.steps, scaler=self.scaler)
        self.optimizer.zero_grad()
        self.steps += 1

    def weights(self) -> Tensor:
        """Return all weights in one row on the CPU, but those that are rounded at random."""
        kept = [p for p in self.model.parameters() if p is not self.model.class_maps]
        return torch.cat([p.detach().cpu().flatten() for p in kept])

    def state(self) -> dict[str, Tensor]:
        """Return copies of weights, running statistics and what the optimizers keep, on the CPU."""
        found = dict(self.model.state_dict())
        for number, kept in enumerate(self.optimizer.state.values()):
            found |= {f"optimizer.{number}.{name}": value for name, value in kept.items() if isinstance(value, Tensor)}
        if self.shard_sgd.momentum is not None:
            found["shard.momentum"] = self.shard_sgd.momentum
        return {name: value.detach().cpu().clone() for name, value in found.items()}
