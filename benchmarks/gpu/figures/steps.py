"""A training step on the device: backbone, AdaFace, cross entropy, backward pass, fused SGD; and pinned copies to it.

docs/scaling.md plans with the speed of ir_101 in bf16 at 128 images.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F

import heads
import nets
from benchmarks.gpu.case import Case, Cases, Figures, NotRunError, need_triton
from benchmarks.gpu.figures.clock import cost
from engine import optim
from engine.composite import CompositeOptimizer, Judges
from engine.guard import ForwardPass, RunningMeans, UpdateGuard

NUM_CLASSES = 10_000


class Variant(NamedTuple):
    """How a step is computed.

    Attributes:
        arch, batch: backbone and images.
        dtype: of autocast; None: float32, or TF32.
        tf32: whether products of float32 are rounded to TF32.
        channels_last: the layout of trainings.
        compiled, recomputed: as --compile and --activation_checkpointing have it.
        guarded: whether the update is the engine's, norms and judgment included, or the optimizer's alone.
    """

    arch: str
    batch: int
    dtype: torch.dtype | None = None
    tf32: bool = False
    channels_last: bool = True
    compiled: bool = False
    recomputed: bool = False
    guarded: bool = True


BF16 = torch.bfloat16
VARIANTS = {
    "ir_101, bf16": Variant("ir_101", 128, BF16),
    "ir_50, float32": Variant("ir_50", 128),
    "ir_50, tf32": Variant("ir_50", 128, tf32=True),
    "ir_50, bf16": Variant("ir_50", 128, BF16),
    "ir_50, fp16 without scaler": Variant("ir_50", 128, torch.float16),
    "ir_50, bf16, contiguous": Variant("ir_50", 128, BF16, channels_last=False),
    "ir_50, bf16, recomputed": Variant("ir_50", 128, BF16, recomputed=True),
    "ir_50, bf16, without guard": Variant("ir_50", 128, BF16, guarded=False),
    "ir_50, bf16, 512 images": Variant("ir_50", 512, BF16),
    "mobilefacenet, bf16": Variant("mobilefacenet", 128, BF16),
    "edgeface_s_gamma_05, bf16": Variant("edgeface_s_gamma_05", 128, BF16),
    "ir_50, bf16, compiled": Variant("ir_50", 128, BF16, compiled=True),
}
REHEARSED = {"arch": "ir_tiny", "batch": 4}  # of all variants on the CPU


class Training:
    """A backbone with a head on one device, which makes one step after another of the same images."""

    def __init__(self, variant: Variant, device: torch.device) -> None:
        self.variant, self.device = variant, device
        torch.manual_seed(0)
        self.model = nets.build_model(variant.arch).to(device).train()
        if variant.channels_last:
            self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs lack it
        self.model.activation_checkpointing = variant.recomputed
        if variant.compiled:
            self.model.compile()
        self.head = heads.build_head("adaface", self.model.embedding_size, NUM_CLASSES).to(device)
        groups = optim.parameter_groups([self.model, self.head], weight_decay=5e-4)
        fused = device.type != "cpu"
        self.optimizer = CompositeOptimizer(optim.build_optimizer("sgd", groups, 0.01, 0.9, fused=fused))
        size = self.model.input_size
        self.images = (torch.rand(variant.batch, 3, size, size) * 2 - 1).to(device)
        self.labels = torch.randint(NUM_CLASSES, (variant.batch,)).to(device)
        self.guard, self.means, self.number = UpdateGuard("skip", 100), RunningMeans(), 0

    def step(self) -> None:
        """Make one update, guarded as a run's or not."""
        is_guarded, dtype = self.variant.guarded, self.variant.dtype
        if is_guarded:
            self.guard.watch(self.model)
        with nullcontext() if dtype is None else torch.autocast(self.device.type, dtype):
            features = self.model(self.images)
            loss = F.cross_entropy(self.head(features.embedding, features.norm, self.labels), self.labels)
        loss.backward()
        if is_guarded:
            batch: Any = SimpleNamespace(index=self.labels)
            self.guard.add(ForwardPass(batch, self.number, loss, {"head": loss}, {}))
            named = [*self.model.named_parameters(), *self.head.named_parameters("head")]
            judges = Judges(self.guard, self.means, lambda batch, index: None)
            self.optimizer.guarded_step(named, judges, self.number, max_norm=5.0)
        else:
            self.optimizer.step()
        self.optimizer.zero_grad()
        self.number += 1


def time_step(variant: Variant, device: torch.device) -> Figures:
    """Measure a variant, and how many images it takes in a second."""
    if variant.compiled and device.type != "cuda":
        raise NotRunError("needs a CUDA device: a compiler for the CPU may be missing")
    if variant.compiled:
        need_triton()
    before = torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("high" if variant.tf32 else "highest")
    torch.backends.cudnn.allow_tf32 = variant.tf32
    try:
        training = Training(variant, device)
        training.step()
        figures = cost("step", training.step, device)
    finally:
        torch.backends.cudnn.allow_tf32 = before
        torch.set_float32_matmul_precision("highest")
    return {"images_per_second": 1e3 * variant.batch / figures["step_ms"], **figures}


def time_copies(num_bytes: int, device: torch.device) -> Figures:
    """Measure copies of a batch's bytes to the device, from pinned memory and from any."""
    figures: Figures = {}
    for name in ("pinned", "pageable"):
        batch = torch.zeros(num_bytes, dtype=torch.uint8, pin_memory=name == "pinned" and device.type == "cuda")
        there = torch.empty(num_bytes, dtype=torch.uint8, device=device)
        copy = partial(there.copy_, batch, non_blocking=True)
        copy()
        figures |= cost(name, copy, device)
        figures[f"{name}_gb_per_second"] = num_bytes / figures[f"{name}_ms"] / 1e6
    return figures


def cases(on_gpu: bool) -> Cases:
    """Return the figures; on the CPU of a small network and few images."""
    variants = {name: v if on_gpu else v._replace(**REHEARSED) for name, v in VARIANTS.items()}  # type: ignore[arg-type]
    checks: dict[str, Callable[[torch.device], Figures]] = {
        f"figure: step, {name}": partial(time_step, variant) for name, variant in variants.items()
    }
    num_bytes = 2**26 if on_gpu else 2**16
    checks = {"figure: copies to the device": partial(time_copies, num_bytes), **checks}
    return {name: Case(check, 100.0 if "compiled" in name else 45.0) for name, check in checks.items()}
