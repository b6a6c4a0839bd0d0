"""How long the fused match takes, beside the plain formulation on autograd and what torch.compile makes of it.

Every figure is a median of runs between two events of the device, after a warm-up; the memory is the peak above what
was there before. The first run of a kernel compiles it and counts for nothing.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.gpu.case import Case, Cases, Figures, NotRunError
from qaconv import QAConv
from qaconv.blocks import Maps
from qaconv.correlation import best_matches
from qaconv.triton_matches import triton_available

WARM_UPS, REPEATS = 3, 20
MOST_SECONDS = 8.0  # of the runs of one figure

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


def median_ms(step: Callable[[], object], device: torch.device) -> tuple[float, list[float]]:
    """Return the median milliseconds of a step, and all of them."""
    runs: list[float] = []
    end = time.monotonic() + MOST_SECONDS
    for number in range(WARM_UPS + REPEATS):
        if device.type == "cuda":
            first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            torch.cuda.synchronize(device)
            first.record()
            step()
            last.record()
            torch.cuda.synchronize(device)
            milliseconds = first.elapsed_time(last)
        else:
            start = time.perf_counter()
            step()
            milliseconds = 1e3 * (time.perf_counter() - start)
        if number >= WARM_UPS:
            runs.append(milliseconds)
            if time.monotonic() > end:
                break
    return statistics.median(runs), [round(run, 4) for run in runs]


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
        before = _peak_mib(device, reset=True)
        step()
        figures[f"{name}_mib"] = _peak_mib(device) - before
        figures[f"{name}_ms"], figures[f"{name}_runs_ms"] = median_ms(step, device)
    operations = 2 * size[0] ** 2 * size[2] ** 2 * size[1]
    figures["forward_tflops"] = operations / figures["forward_ms"] / 1e9
    return figures


def _peak_mib(device: torch.device, reset: bool = False) -> float:
    if device.type != "cuda":
        return 0.0
    torch.cuda.synchronize(device)
    if reset:
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device) / 2**20
    return torch.cuda.max_memory_allocated(device) / 2**20


def time_fused(half: bool, size: tuple[int, int, int], device: torch.device) -> Figures:
    """Measure the operator; without Triton its blocked form would be measured under a wrong name."""
    if device.type == "cuda" and not triton_available():
        raise NotRunError("no module triton")
    return measure(partial(fused, half), size, device)


def time_plain(half: bool, size: tuple[int, int, int], device: torch.device) -> Figures:
    """Measure the plain formulation."""
    return measure(partial(plain, half), size, device)


def time_compiled(half: bool, size: tuple[int, int, int], device: torch.device) -> Figures:
    """Measure what torch.compile makes of the plain formulation, and how long it takes to."""
    if device.type == "cuda" and not triton_available():
        raise NotRunError("no module triton")
    if device.type != "cuda":
        raise NotRunError("needs a CUDA device: a compiler for the CPU may be missing")
    start = time.monotonic()
    figures = measure(torch.compile(lambda probe, gallery: plain(half, probe, gallery)), size, device)
    return figures | {"seconds_with_compilation": time.monotonic() - start}


def time_matcher(half: bool, size: tuple[int, int, int], device: torch.device) -> Figures:
    """Measure a training step of the matcher: a batch against itself, forward and backward."""
    side = round(size[2] ** 0.5)
    matcher = QAConv(size[1], side, side, "scaling").to(device)
    maps = F.normalize(torch.randn(size[0], size[1], side, side), dim=1).to(device).requires_grad_()
    visibility = torch.rand(size[0], 1, side, side).to(device)

    def step() -> None:
        with torch.autocast(device.type, torch.float16, enabled=half):
            scores = matcher(maps, maps, visibility, visibility)
        scores.sum().backward()
        maps.grad = None
        matcher.zero_grad()

    median, runs = median_ms(step, device)
    return {"both_ms": median, "both_runs_ms": runs}


def time_step(step: Step, precision: str, size: tuple[int, int, int], device: torch.device) -> Figures:
    """Return a step's figures in one of PRECISIONS."""
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    try:
        return step(precision == "float16", size, device)
    finally:
        torch.set_float32_matmul_precision("highest")


def cases(on_gpu: bool) -> Cases:
    """Return the figures at 256 maps of 512 x 7 x 7, on the CPU of few small ones; those of torch.compile last."""
    size = (256, 512, 49) if on_gpu else (8, 16, 9)
    steps = {"fused": time_fused, "einsum": time_plain, "matcher": time_matcher, "compiled einsum": time_compiled}
    checks = {
        f"figure: {name}, {precision}": partial(time_step, step, precision, size)
        for name, step in steps.items()
        for precision in PRECISIONS
    }
    return {name: Case(check, 75.0) for name, check in checks.items()}
