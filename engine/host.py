"""What the engine may ask of a module that is trained and of its batches: nothing else of them is read."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class Batch(Protocol):
    """A batch of training or validation."""

    @property
    def index(self) -> Tensor:
        """Positions in the data, int64 [B]."""


class AveragedModule(Protocol):
    """A module whose weights `WeightAverage` follows."""

    @property
    def not_averaged(self) -> tuple[str, ...]:
        """What the names of its parameters and buffers begin with that take no part in the average."""
