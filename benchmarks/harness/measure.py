"""How every benchmark measures: medians of alternating runs, peak extra memory, the facts of the machine.

- Time: one warm-up of each step, then the steps in turn, in one process: what slows the machine slows them alike.
- Memory: how far the resident set peaks above its level before the step. Freed heap is handed back first (malloc_trim),
  and the kernel's counter of the peak begins anew: Linux only.
"""

from __future__ import annotations

import ctypes
import gc
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from system.memory import peak_resident, restart_peak

Step = Callable[[], object]
MIB = 2**20


class Cost(NamedTuple):
    """What a step costs."""

    runs: list[float]  # seconds of each run
    extra_mib: float | None  # peak of the resident set above its level before; None where it cannot be measured

    @property
    def seconds(self) -> float:
        """Median of the runs."""
        return statistics.median(self.runs)


def alternate(
    steps: Mapping[str, Step], repeats: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, list[float]]:
    """Return the seconds of `repeats` alternating runs of each step, after one warm-up of each.

    The clock is another for steps of one thread on a busy machine: time.process_time.
    """
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for repeat in range(repeats + 1):
        for name, step in steps.items():
            start = clock()
            step()
            if repeat:
                seconds[name].append(clock() - start)
    return seconds


def measure_extra_mib(step: Step) -> float | None:
    """Return how far the resident set peaks above its level before the step, in MiB; None where Linux is not."""
    gc.collect()
    if not restart_peak():
        return None  # another system
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    restart_peak()  # at what is held now
    before = peak_resident()
    step()
    peak = peak_resident()
    return None if before is None or peak is None else (peak - before) / MIB


def compare(steps: Mapping[str, Step], repeats: int) -> dict[str, Cost]:
    """Return time and memory of each step, measured as the head of this module says."""
    runs = alternate(steps, repeats)
    return {name: Cost(runs[name], measure_extra_mib(step)) for name, step in steps.items()}


def ratio(value: float | None, reference: float | None) -> float | None:
    """Return value over reference; None where one of them is missing or the reference is 0."""
    return value / reference if value is not None and reference else None


def machine() -> dict[str, str | int | None]:
    """Return what a figure depends on besides the code."""
    import torch  # whoever only asks for help does without

    return {
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": platform.system(),
    }


def _cpu_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())
