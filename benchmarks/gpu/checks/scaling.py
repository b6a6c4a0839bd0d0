"""fp16 with a loss scaler: overflows are skipped until the scale fits, and the update is that of float32."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch

from benchmarks.gpu.case import Case, Cases, Figures, expect
from benchmarks.gpu.checks.training import Training
from benchmarks.gpu.checks.updates import NAN, changed, expect_same

OVERFLOWS = 2.0**22  # the gradients of these losses, in float16
MOST_STEPS = 40
# Of the norm of the update. AdamW's first step is +-lr, whatever a gradient near 0 is.
MOST_DIFFERENCE = {"sgd": 0.05, "adamw": 0.3}


def _until_it_fits(training: Training, num_batches: int = 1) -> int:
    """Make steps until the weights move; return how many were skipped. Each halves the scale and changes nothing."""
    scaler = training.scaler
    assert scaler is not None
    for skipped in range(MOST_STEPS):
        before, scale = training.state(), scaler.get_scale()
        training.steps = 0  # the same step again
        training.step([training.batch(number) for number in range(num_batches)])
        if scaler.get_scale() == scale:
            return skipped
        assert scaler.get_scale() == scale / 2, f"the scale went from {scale:g} to {scaler.get_scale():g}"
        expect_same(before, training.state())
    raise AssertionError(f"the scale is still {scaler.get_scale():g} after {MOST_STEPS} steps")


def check_overflow(optimizer: str, num_batches: int, device: torch.device) -> Figures:
    """From a scale that overflows to one that fits; then the update must be that of float32 without a scaler."""
    training, exact = Training(device, optimizer, OVERFLOWS), Training(device, optimizer)
    skipped = _until_it_fits(training, num_batches)
    assert skipped, "nothing overflowed"
    training.guard.settle()
    assert training.guard.skipped == 0, "an overflow was counted as a bad step"
    before = exact.weights()
    exact.step([exact.batch(number) for number in range(num_batches)])
    wanted, found = exact.weights() - before, training.weights() - before
    figures: Figures = {"skipped": skipped, "difference": float((found - wanted).norm() / wanted.norm())}
    expect("difference from float32's update", figures["difference"], MOST_DIFFERENCE[optimizer])
    return figures


def check_nan(optimizer: str, device: torch.device) -> Figures:
    """A NaN in the loss is no overflow: it is refused and counted, and changes nothing."""
    training = Training(device, optimizer, 1024.0)
    _until_it_fits(training)
    before = training.state()
    training.step([training.batch(1), training.batch(2)], [1.0, NAN])
    expect_same(before, training.state())
    training.guard.settle()
    assert training.guard.skipped == 1, f"{training.guard.skipped} steps were counted as skipped"
    training.step([training.batch(3)])
    assert changed(before, training.state()), "the step after it changed nothing"
    return {}


def cases(on_gpu: bool) -> Cases:
    """Return the checks."""
    checks: dict[str, Callable[[torch.device], Figures]] = {}
    for optimizer in ("sgd", "adamw"):
        for num_batches in (1, 3):
            name = f"scaler: {optimizer}, overflow, {num_batches} batches a step"
            checks[name] = partial(check_overflow, optimizer, num_batches)
        checks[f"scaler: {optimizer}, NaN"] = partial(check_nan, optimizer)
    return {name: Case(check) for name, check in checks.items()}
