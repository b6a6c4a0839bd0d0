"""How long the fused match takes, beside the plain formulation on autograd and what torch.compile makes of it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.gpu.case import Case, Cases, Figures, NotRunError, need_kernels, need_triton
from benchmarks.gpu.figures.clock import cost
from qaconv import QAConv
from qaconv.blocks import Maps
from qaconv.correlation import best_matches

PRECISIONS = ("float16", "float32", "tf32")

Matches = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
Step = Callable[[bool, tuple[int, int, int], torch.device], Figures]


def fused(half: bool, probe: Tensor, gallery: Tensor) -> tuple[Tensor, Tensor]:
    """Return both directions' best matches by the operator."""
    found = best_matches(Maps(probe, None), Maps(gallery, None), half=half)
    return found.probe, found.gallery


def plain(half: bool, probe: Tensor, gallery: Tensor) -> tuple[Tensor, Tensor]:
    """Return them by one einsum and two maxima."""
    if half:
        probe, gallery = probe.half(), gallery.half()
    sim = torch.einsum("lpsc,lgrc->lpgsr", probe, gallery)
    return sim.amax(dim=4).float(), sim.amax(dim=3).float()


def measure(matches: Matches, size: tuple[int, int, int], device: torch.device) -> Figures:
    """Return time and memory of the forward pass alone and of both passes, of `size` maps, channels, cells."""
    generator = torch.Generator().manual_seed(0)
    shape = (1, size[0], size[2], size[1])
    probe, gallery = (F.normalize(torch.randn(shape, generator=generator), dim=3).to(device) for _ in range(2))
    wanted = [leaf.requires_grad_() for leaf in (probe.clone(), gallery.clone())]

    def forward() -> object:
        with torch.no_grad():
            return matches(probe, gallery)

    def both() -> None:
        there, back = matches(*wanted)
        (there.sum() + back.sum()).backward()
        wanted[0].grad = wanted[1].grad = None

    figures: Figures = {}
    for name, step in {"forward": forward, "both": both}.items():
        step()  # builds what has to be built, so that its memory is not the step's
        figures |= cost(name, step, device)
    operations = 2 * size[0] ** 2 * size[2] ** 2 * size[1]
    figures["forward_tflops"] = operations / figures["forward_ms"] / 1e9
    return figures


def time_fused(half: bool, size: tuple[int, int, int], device: torch.device) -> Figures:
    """Measure the operator; without Triton its blocked form would be measured under a wrong name."""
    if device.type == "cuda":
        need_kernels(device)
    return measure(partial(fused, half), size, device)


def time_plain(half: bool, size: tuple[int, int, int], device: torch.device) -> Figures:
    """Measure the plain formulation."""
    return measure(partial(plain, half), size, device)


def time_compiled(half: bool, size: tuple[int, int, int], device: torch.device) -> Figures:
    """Measure what torch.compile makes of the plain formulation."""
    if device.type != "cuda":
        raise NotRunError("needs a CUDA device: a compiler for the CPU may be missing")
    need_triton()
    torch.compiler.reset()  # the other precisions' graphs are of the same code
    return measure(torch.compile(lambda probe, gallery: plain(half, probe, gallery)), size, device)


def time_matcher(half: bool, size: tuple[int, int, int], device: torch.device) -> Figures:
    """Measure a training step of the matcher: a batch against itself, forward and backward."""
    side = round(size[2] ** 0.5)
    matcher = QAConv(size[1], side, side, "scaling").to(device)
    generator = torch.Generator().manual_seed(0)
    maps = F.normalize(torch.randn(size[0], size[1], side, side, generator=generator), dim=1).to(device)
    maps.requires_grad_()
    visibility = torch.rand(size[0], 1, side, side, generator=generator).to(device)

    def step() -> None:
        with torch.autocast(device.type, torch.float16, enabled=half):
            scores = matcher(maps, maps, visibility, visibility)
        scores.sum().backward()
        maps.grad = None
        matcher.zero_grad()

    step()
    return cost("both", step, device)


def time_step(step: Step, precision: str, size: tuple[int, int, int], device: torch.device) -> Figures:
    """Return a step's figures in one of PRECISIONS."""
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    try:
        return step(precision == "float16", size, device)
    finally:
        torch.set_float32_matmul_precision("highest")


def cases(on_gpu: bool) -> Cases:
    """Return the figures at 256 maps of 512 x 7 x 7, on the CPU of few small ones.

    The operator and the matcher are measured at 64 maps of 256 x 14 x 14 too, as `benchmarks.qaconv` does.
    """
    size = (256, 512, 49) if on_gpu else (8, 16, 9)
    large = (64, 256, 196) if on_gpu else (4, 16, 16)
    steps = {"fused": time_fused, "einsum": time_plain, "matcher": time_matcher, "compiled einsum": time_compiled}
    checks = {
        f"figure: {name}, {precision}": partial(time_step, step, precision, size)
        for name, step in steps.items()
        for precision in PRECISIONS
    }
    checks |= {
        f"figure: {name}, 14x14, float16": partial(time_step, steps[name], "float16", large)
        for name in ("fused", "matcher")
    }
    return {name: Case(check, 60.0) for name, check in checks.items()}
