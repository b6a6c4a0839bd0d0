"""One update as `train_val.Recognizer` makes it, without Lightning and without data, for the checks of updates."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine import guard, optim, updates
from heads import PartialFC, build_head
from tasks.recognition import sharded_head

CLASSES, SIDE = 10, 12
LR, MOMENTUM, WEIGHT_DECAY = 0.05, 0.9, 5e-4


class SmallFaces(nn.Module):
    """A net with everything that a void step has to leave alone."""

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
    """A model, its optimiser, its guard and perhaps a loss scaler on one device.

    Attributes:
        scaler: None: no loss scaling, and float32; else float16 under autocast.
    """

    def __init__(self, device: torch.device, optimizer: str, initial_scale: float | None = None) -> None:
        torch.manual_seed(0)
        self.device = device
        self.model = SmallFaces().to(device).train()
        self.optimizer = optim.build_optimizer(
            optimizer, optim.parameter_groups([self.model], WEIGHT_DECAY), LR, MOMENTUM, fused=True
        )
        self.guard = guard.UpdateGuard("skip", 100)
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
            self.guard.add(guard.ForwardPass(batch, 0, loss, {"head": loss}, {}))
            share = loss / len(batches)
            (share if self.scaler is None else self.scaler.scale(share)).backward()
        self._update()

    def _update(self) -> None:
        """Do what `Recognizer.on_before_optimizer_step` and the optimiser do."""
        if self.scaler is not None:
            self.scaler.unscale_(self.optimizer)
        class_maps = self.model.class_maps
        assert class_maps.grad is not None
        class_maps.grad = updates.mean_over_ranks(class_maps.grad)
        named = {name: p for name, p in self.model.named_parameters() if p.grad is not None}
        norms, norm = sharded_head.gradient_norms(named, {"main": self.model.shard})
        accepted, _ = self.guard.judge(self.steps + 1, norms, norm, lambda batch, index: None, bool(self.scaler))
        rounding = torch.Generator(self.device).manual_seed(self.steps)
        optim.sparse_sgd_step(class_maps, LR, WEIGHT_DECAY, rounding, accepted)
        class_maps.grad = None
        self.model.shard.sgd_step(LR, MOMENTUM, WEIGHT_DECAY, accepted)
        updates.void(self.optimizer, (~accepted).float(), self.scaler)
        if self.scaler is None:
            self.optimizer.step()
        else:
            self.scaler.step(self.optimizer)
            self.scaler.update()
        self.optimizer.zero_grad()
        self.steps += 1

    def weights(self) -> Tensor:
        """Return all weights in one row on the CPU, but those that are rounded at random."""
        kept = [p for p in self.model.parameters() if p is not self.model.class_maps]
        return torch.cat([p.detach().cpu().flatten() for p in kept])

    def state(self) -> dict[str, Tensor]:
        """Return copies of weights, running statistics and what the optimisers keep, on the CPU."""
        found = dict(self.model.state_dict())
        for number, kept in enumerate(self.optimizer.state.values()):
            found |= {f"optimizer.{number}.{name}": value for name, value in kept.items() if isinstance(value, Tensor)}
        if self.model.shard.momentum is not None:
            found["shard.momentum"] = self.model.shard.momentum
        return {name: value.detach().cpu().clone() for name, value in found.items()}
