"""What the figures compile, compiled beside each other before they are measured, one after another.

A kernel takes seconds to compile and one core; the caches of a part on the disk keep it for the processes after this.
"""

from __future__ import annotations

from functools import partial

import torch

from benchmarks.gpu.case import Case, Cases, Figures, need_cuda, need_triton
from benchmarks.gpu.figures import clock, heads, matches, scores, steps

COMPILED = ("fused", "matcher", "compiled", "class maps", "validation", "maps held")  # words in the figures' names
SECONDS = 120.0


def run_once(case: Case, device: torch.device) -> Figures:
    """Run what is measured as few times as can be."""
    need_cuda(device)
    need_triton()
    before, clock.MOST_SECONDS = clock.MOST_SECONDS, 0.0
    try:
        case.run(device)
    finally:
        clock.MOST_SECONDS = before
    return {}


def cases(on_gpu: bool) -> Cases:
    """Return a check for every figure that compiles; those of torch.compile, which take the longest, first."""
    figures = {name: case for module in (steps, matches, heads, scores) for name, case in module.cases(on_gpu).items()}
    chosen = [name for name in figures if any(word in name for word in COMPILED)]
    chosen.sort(key=lambda name: "compiled" not in name)
    return {
        f"ahead: {name.removeprefix('figure: ')}": Case(partial(run_once, figures[name]), SECONDS) for name in chosen
    }
