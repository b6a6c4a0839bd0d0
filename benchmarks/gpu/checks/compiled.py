"""What torch.compile makes of the networks on the device, and recomputed activations: numbers of the plain ones."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import nets
from benchmarks.gpu.case import Case, Cases, Figures, NotRunError, expect, need_triton
from benchmarks.gpu.checks.networks import expect_cosine, gradient_of, images, least_cosine, settle, twin
from qaconv import QAConv

DTYPES = {"float32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
LEAST = {"float32": 0.9999, "bf16": 0.98, "fp16": 0.995}  # cosines of gradients; fused passes round at other places


def need_compiler(device: torch.device) -> None:
    """Refuse where a rehearsal on the CPU would compile, which takes minutes, or Triton is missing."""
    if device.type != "cuda":
        raise NotRunError("needs a CUDA device: a compiler for the CPU may be missing")
    need_triton()


def autocast(device: torch.device, precision: str) -> AbstractContextManager[Any]:
    """Return the context of a precision."""
    dtype = DTYPES[precision]
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype)


def backbone_gradient(model: nn.Module, given: Tensor, precision: str) -> Tensor:
    """Return the gradient of a training step in one row."""
    model.train().zero_grad(set_to_none=True)
    with autocast(given.device, precision):
        loss = model(given).embedding.float()[:, :8].square().sum()
    return gradient_of(model, loss)


def two_backbones(number: int, device: torch.device) -> tuple[nets.Backbone, nets.Backbone, Tensor]:
    """Return a backbone on the device, settled by so many images, its copy, and the images."""
    torch.manual_seed(0)
    drawn = nets.build_model("ir_tiny")
    given = images(number, drawn.input_size, drawn.input_size)
    settle(drawn, given)
    first = twin(drawn, device)
    return first, copy.deepcopy(first), given.to(device)


def check_backbone(precision: str, recomputed: bool, device: torch.device) -> Figures:
    """A compiled training step, recomputing or not, must have the plain one's gradient and running statistics."""
    need_compiler(device)
    plain, compiled, given = two_backbones(16, device)
    compiled.activation_checkpointing = recomputed
    compiled.compile()
    wanted, found = (backbone_gradient(model, given, precision) for model in (plain, compiled))
    figures: Figures = {"gradient": least_cosine(wanted[None], found[None])}
    expect_cosine("gradient", figures["gradient"], LEAST[precision])
    pairs = zip(plain.buffers(), compiled.buffers(), strict=True)
    moved = [float((a.double() - b.double()).norm() / a.double().norm().clamp_min(1e-3)) for a, b in pairs]
    figures["statistics"] = max(moved)
    expect("relative difference of running statistics", figures["statistics"], 0.05)
    return figures


def check_recomputed(precision: str, device: torch.device) -> Figures:
    """Without a compiler recomputed activations must give the gradient of kept ones, and statistics that move once."""
    kept, recomputing, given = two_backbones(8, device)
    recomputing.activation_checkpointing = True
    wanted, found = (backbone_gradient(model, given, precision) for model in (kept, recomputing))
    buffers = zip(kept.buffers(), recomputing.buffers(), strict=True)
    assert all(torch.equal(a, b) for a, b in buffers), "running statistics differ"
    figures: Figures = {
        "gradient": least_cosine(wanted[None], found[None]),
        "same_bits": torch.equal(wanted, found),
    }
    expect_cosine("gradient", figures["gradient"], 0.99999)
    return figures


def check_detector(device: torch.device) -> Figures:
    """A compiled detector must say what the plain one says."""
    need_compiler(device)
    torch.manual_seed(0)
    ours = nets.build_detector("featherface_v2")
    given = nets.detector_input(images(2, 128, 160))
    settle(ours, given)
    plain = twin(ours, device)
    compiled = copy.deepcopy(plain)
    compiled.compile()
    with torch.no_grad():
        wanted, found = plain(given.to(device)), compiled(given.to(device))
    figures: Figures = {
        name: float((b - a).abs().max()) for name, a, b in zip(wanted._fields, wanted, found, strict=True)
    }
    for name, difference in figures.items():
        expect(name, difference, 1e-3)
    return figures


def check_matcher(device: torch.device) -> Figures:
    """The matcher's operator is one node of a compiled graph: scores and gradients are the plain ones."""
    need_compiler(device)
    torch.manual_seed(0)
    matcher = QAConv(64, 7, 7, "scaling", "weighted").to(device)
    maps = F.normalize(torch.randn(12, 64, 7, 7), dim=1).to(device)
    visibility = torch.rand(12, 1, 7, 7).to(device)
    results = []
    for call in (matcher, torch.compile(matcher)):
        leaf = maps.clone().requires_grad_()
        scores = call(leaf, leaf, visibility, visibility)
        scores.square().sum().backward()
        assert leaf.grad is not None
        results.append((scores.detach(), leaf.grad))
    (wanted, of_wanted), (found, of_found) = results
    figures: Figures = {"scores": float((found - wanted).norm() / wanted.norm())}
    figures["gradient"] = float((of_found - of_wanted).norm() / of_wanted.norm())
    for name, difference in figures.items():
        expect(name, difference, 1e-3)
    return figures


def cases(on_gpu: bool) -> Cases:
    """Return the checks."""
    checks: dict[str, Callable[[torch.device], Figures]] = {}
    for precision in DTYPES:
        checks[f"recomputed: {precision}"] = partial(check_recomputed, precision)
        checks[f"compiled: backbone, {precision}"] = partial(check_backbone, precision, False)
    checks["compiled: backbone, bf16, recomputed"] = partial(check_backbone, "bf16", True)
    checks |= {"compiled: detector": check_detector, "compiled: matcher": check_matcher}
    return {name: Case(check, 90.0) for name, check in checks.items()}
