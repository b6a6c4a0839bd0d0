"""What a check of a part is, and how it says that it cannot run here."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch

Figures = dict[str, Any]  # what was measured, as JSON takes it


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
