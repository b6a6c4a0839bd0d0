"""How time and memory of the device are measured.

Every figure is a median of runs between two events of the device, after a warm-up; the memory is the peak above what
was there before. The first run of a kernel compiles it and counts for nothing.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch

from benchmarks.gpu.case import Figures

WARM_UPS, REPEATS = 3, 20
MOST_SECONDS = 6.0  # of the runs of one figure, warm-ups included


def milliseconds(step: Callable[[], object], device: torch.device) -> float:
    """Return how long one run takes, what was asked of the device before it left out."""
    if device.type == "cuda":
        first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize(device)
        first.record()
        step()
        last.record()
        torch.cuda.synchronize(device)
        return first.elapsed_time(last)
    start = time.perf_counter()
    step()
    return 1e3 * (time.perf_counter() - start)


def median_ms(step: Callable[[], object], device: torch.device) -> tuple[float, list[float]]:
    """Return the median milliseconds of a step that has run once, and all of them; a slow step has no warm-ups."""
    runs: list[float] = []
    end = time.monotonic() + MOST_SECONDS
    for number in range(WARM_UPS + REPEATS):
        run = milliseconds(step, device)
        is_late = time.monotonic() > end
        if number >= WARM_UPS or is_late:
            runs.append(run)
        if is_late:
            break
    return statistics.median(runs), [round(run, 4) for run in runs]


def peak_mib(device: torch.device, reset: bool = False) -> float:
    """Return the peak of allocated memory, or begin a new one and return what is allocated; 0 on the CPU."""
    if device.type != "cuda":
        return 0.0
    torch.cuda.synchronize(device)
    if reset:
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device) / 2**20
    return torch.cuda.max_memory_allocated(device) / 2**20


def cost(name: str, step: Callable[[], object], device: torch.device) -> Figures:
    """Return time and memory of a step that has run once, under names that begin so.

    Returns:
        `{name}_ms`, a median, `{name}_runs_ms`, and `{name}_mib`, the peak above what lay there before.
    """
    before = peak_mib(device, reset=True)
    step()
    figures: Figures = {f"{name}_mib": peak_mib(device) - before}
    figures[f"{name}_ms"], figures[f"{name}_runs_ms"] = median_ms(step, device)
    return figures
