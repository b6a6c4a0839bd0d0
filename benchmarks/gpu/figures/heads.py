"""Steps of heads and class maps with many identities: time, and memory beside what is planned before a run."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F

import heads
from benchmarks.gpu.case import Case, Cases, Figures
from benchmarks.gpu.figures.clock import cost, peak_mib
from engine.composite import ShardSGD, SparseSGD
from qaconv import QAConv

SIZE, BATCH, CHANNELS = 512, 128, 512
MS1MV2, MILLION = 85_742, 1_000_000
K_NEAREST = 16
MIB = 2**20


class Batch(NamedTuple):
    """Unit embeddings [B, D] with a gradient, their norms [B, 1] and labels [B], four images a class."""

    embedding: torch.Tensor
    norm: torch.Tensor
    labels: torch.Tensor


def draw(num_classes: int, size: int, device: torch.device) -> Batch:
    """Return a batch of random embeddings."""
    generator = torch.Generator().manual_seed(0)
    embeddings = F.normalize(torch.randn(BATCH, size, generator=generator)).to(device).requires_grad_()
    labels = torch.randint(num_classes, (BATCH // 4,), generator=generator).repeat_interleave(4).to(device)
    return Batch(embeddings, torch.full((BATCH, 1), 20.0, device=device), labels)


def time_split(num_classes: int, rate: float, size: int, device: torch.device) -> Figures:
    """Measure a step of PartialFC on one rank; memory is that of its two first steps, weights included."""
    before = peak_mib(device, reset=True)
    head = heads.PartialFC(heads.build_head("adaface", size, 1), num_classes, rate, max_positives=BATCH // 4).to(device)
    optimizer = ShardSGD(head.weight, lr=0.1, momentum=0.9, weight_decay=5e-4)
    batch, number = draw(num_classes, size, device), 0

    def step() -> None:
        nonlocal number
        head.loss(batch, batch.labels, number).loss.backward()
        batch.embedding.grad = None
        optimizer.step(number=number)
        number += 1

    step()
    step()
    planned = heads.shard_bytes(num_classes, size, 1, rate, BATCH, BATCH // 4) / MIB
    figures: Figures = {"held_mib": peak_mib(device) - before, "planned_mib": planned}
    return figures | cost("step", step, device)


def time_whole(num_classes: int, size: int, device: torch.device) -> Figures:
    """Measure a step of the head that every rank has whole, fused SGD with momentum over all classes included."""
    before = peak_mib(device, reset=True)
    head = heads.build_head("adaface", size, num_classes).to(device)
    fused = device.type != "cpu"
    optimizer = torch.optim.SGD(head.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4, fused=fused)
    batch = draw(num_classes, size, device)

    def step() -> None:
        head.loss(batch, batch.labels, 0).loss.backward()
        batch.embedding.grad = None
        optimizer.step()
        optimizer.zero_grad()

    step()
    step()
    return {"held_mib": peak_mib(device) - before} | cost("step", step, device)


def time_class_maps(num_classes: int, channels: int, device: torch.device) -> Figures:
    """Measure a step of class maps: scores, gradient, and the update of the rows that took part.

    The maps are drawn on the device: on the host they would take longer than all steps.
    """
    before = peak_mib(device, reset=True)
    with device:
        matcher = QAConv(channels, 7, 7, "scaling", "weighted", num_classes=num_classes, k_nearest=K_NEAREST)
        maps = F.normalize(torch.randn(BATCH // 4, channels, 7, 7), dim=1).requires_grad_()
        labels = torch.randint(num_classes, (BATCH // 4,))
        visibility = torch.rand(BATCH // 4, 1, 7, 7)
    assert matcher.class_embeddings is not None
    weight, number = matcher.class_embeddings.weight, 0
    optimizer = SparseSGD(weight, seed=0, lr=0.1)

    def step() -> None:
        nonlocal number
        with torch.autocast(device.type, torch.float16, enabled=device.type == "cuda"):
            logits = matcher.class_logits(maps, labels, visibility)
        F.cross_entropy(logits, torch.zeros_like(labels)).backward()
        maps.grad = None
        optimizer.reduce()
        optimizer.step(number=number)
        matcher.zero_grad()
        number += 1

    built = peak_mib(device, reset=True)
    step()
    figures: Figures = {"held_mib": built - before, "planned_mib": matcher.class_embedding_bytes(num_classes) / MIB}
    return figures | cost("step", step, device)


def cases(on_gpu: bool) -> Cases:
    """Return the figures; on the CPU of few classes."""
    size, channels = (SIZE, CHANNELS) if on_gpu else (16, 8)

    def classes(number: int) -> int:
        return number if on_gpu else number // 1000

    checks: dict[str, Callable[[torch.device], Figures]] = {}
    for number in (MS1MV2, MILLION):
        count = classes(number)
        checks[f"figure: head, {number:,} classes, whole"] = partial(time_whole, count, size)
        for rate in (1.0, 0.1):
            checks[f"figure: head, {number:,} classes, split, rate {rate}"] = partial(time_split, count, rate, size)
    checks[f"figure: class maps, {MS1MV2:,} classes"] = partial(time_class_maps, classes(MS1MV2), channels)
    return {name: Case(check, 60.0) for name, check in checks.items()}
