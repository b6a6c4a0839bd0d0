"""Skipped steps on the device: fused optimizers, running statistics, sparse rows; the host waits for nothing."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from benchmarks.gpu.case import Case, Cases, Figures, expect, largest, need_cuda, no_waiting
from benchmarks.gpu.checks.training import Training

NAN, INF = float("nan"), float("inf")


def changed(before: dict[str, Tensor], after: dict[str, Tensor]) -> list[str]:
    """Return the names of the tensors that are not the same to the bit.

    Counters of batches may count, and what an optimizer keeps may be made by a skipped step, of zeros.
    """
    names = [name for name in before | after if "num_batches_tracked" not in name]
    return [name for name in names if not torch.equal(before.get(name, torch.zeros_like(after[name])), after[name])]


def expect_same(before: dict[str, Tensor], after: dict[str, Tensor]) -> None:
    """Fail with the names of the tensors that a skipped step has changed."""
    names = changed(before, after)
    assert not names, f"changed by a skipped step: {', '.join(names)}"


def distance(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    """Return the largest difference of two states."""
    names = [name for name in a if "num_batches_tracked" not in name]
    return max(largest(a[name].double() - b[name].double()) for name in names)


def spoil_gradient(training: Training, factor: float) -> Callable[[], None]:
    """Multiply one gradient of the body by a factor from now on; call the result to end it."""
    weight = training.model.body.get_parameter("4.weight")
    handle = weight.register_hook(lambda gradient: gradient * factor)
    return handle.remove


def check_skipped(optimizer: str, what: str, first: bool, device: torch.device) -> Figures:
    """A spoilt step must change nothing, and the steps after it must be those of a run that never had it."""
    spoilt, clean = Training(device, optimizer), Training(device, optimizer)
    if not first:
        for training in (spoilt, clean):
            training.step([training.batch(0)])
    before = spoilt.state()
    _spoilt_step(spoilt, what)
    expect_same(before, spoilt.state())
    spoilt.guard.settle()
    assert spoilt.guard.skipped == 1, f"{spoilt.guard.skipped} steps were counted as skipped"
    for number in (2, 3):
        for training in (spoilt, clean):
            training.steps = number  # class maps are rounded by it
            training.step([training.batch(number)])
    assert changed(before, spoilt.state()), "a good step changed nothing"
    figures: Figures = {"difference": distance(spoilt.state(), clean.state())}
    expect("difference from the run without the step", figures["difference"], 1e-3)
    return figures


def _spoilt_step(training: Training, what: str) -> None:
    images, labels = training.batch(1)
    if what == "images":
        images[0, 0, 0, 0] = NAN  # reaches the running statistics of batch norm and AdaFace
        training.step([(images, labels)])
    elif what == "loss":
        training.step([(images, labels)], [NAN])
    else:
        end = spoil_gradient(training, INF)
        training.step([(images, labels)])
        end()


def check_accumulated(device: torch.device) -> Figures:
    """One spoilt batch among accumulated ones skips the whole step."""
    training = Training(device, "sgd")
    training.step([training.batch(0), training.batch(1)])
    before = training.state()
    training.step([training.batch(2), training.batch(3), training.batch(4)], [1.0, NAN, 1.0])
    expect_same(before, training.state())
    return {}


def _waits(device: torch.device) -> bool:
    try:
        with no_waiting():
            torch.ones((), device=device).item()
    except RuntimeError:
        return True
    return False


def check_no_wait(optimizer: str, device: torch.device) -> Figures:
    """Guard, clipping and the fused step must not make the host wait, for a sound step or a spoilt one."""
    need_cuda(device)
    assert _waits(device), "CUDA's own watch does not see a wait"
    training = Training(device, optimizer)
    batch = training.batch(0)
    training.step([batch])  # builds kernels and memory
    with no_waiting():
        training.step([batch])
        training.step([batch], [NAN])
    training.guard.settle()  # to explain a refused step the host may wait
    assert training.guard.skipped == 1
    return {}


def cases(on_gpu: bool) -> Cases:
    """Return the checks."""
    checks: dict[str, Callable[[torch.device], Figures]] = {}
    for optimizer in ("sgd", "adamw"):
        for what in ("images", "loss", "gradient"):
            checks[f"skipped step: {optimizer}, {what}"] = partial(check_skipped, optimizer, what, False)
        checks[f"skipped step: {optimizer}, the first of all"] = partial(check_skipped, optimizer, "images", True)
        checks[f"no wait for the device: {optimizer}"] = partial(check_no_wait, optimizer)
    checks["skipped step: among accumulated batches"] = check_accumulated
    return {name: Case(check) for name, check in checks.items()}
