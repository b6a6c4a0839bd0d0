"""What a check of a part is, and how it says that it cannot run here."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch

from qaconv.triton_matches import builds_extensions, fits

Figures = dict[str, Any]  # what was measured, as JSON takes it


# What a run of main.py cannot do without; numcodecs, wandb and others are imported by who needs them.
OF_RUNS = ("pytorch_lightning", "torchmetrics", "cv2", "matplotlib", "scipy", "sklearn", "safetensors", "rich")


class NotRunError(Exception):
    """The check needs something that this machine does not have; the message says what."""


class Case(NamedTuple):
    """One check.

    Attributes:
        run: called with the device; returns what it measured, raises AssertionError where a number is wrong and
            NotRunError where it cannot run.
        seconds: after which it is given up, compilation of its kernels included.
    """

    run: Callable[[torch.device], Figures]
    seconds: float = 45.0


Cases = Mapping[str, Case]


def need_cuda(device: torch.device) -> None:
    """Refuse a rehearsal on the CPU."""
    if device.type != "cuda":
        raise NotRunError("needs a CUDA device")


def need_modules(*names: str) -> None:
    """Refuse where a package is not installed."""
    for name in names:
        if find_spec(name) is None:
            raise NotRunError(f"no module {name}")


def need_triton() -> None:
    """Refuse where Triton is not installed, or cannot build what launches its kernels."""
    need_modules("triton")
    if not builds_extensions():
        raise NotRunError("no C compiler or no Python.h, with which Triton builds")


def need_kernels(device: torch.device) -> None:
    """Refuse where the blocked form would run in place of the kernels."""
    need_triton()
    if device.type == "cuda" and not fits(device):
        raise NotRunError("the device has too little shared memory for the kernels")


@contextmanager
def no_waiting() -> Iterator[None]:
    """Raise where the host waits for the device."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def largest(difference: torch.Tensor) -> float:
    """Return the largest absolute value, 0 of an empty tensor."""
    return difference.abs().amax().item() if difference.numel() else 0.0


def expect(name: str, found: float, most: float) -> None:
    """Fail unless found <= most; NaN fails."""
    if not found <= most:
        raise AssertionError(f"{name} is {found:.3g}, more than {most:.3g}")
