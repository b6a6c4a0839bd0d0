"""Options: all that the engine reads, whatever is trained."""

from __future__ import annotations

from dataclasses import dataclass

from options.names import NO_METRIC
from options.run import DeviceOptions, SystemOptions
from options.training import TrainingOptions


@dataclass(frozen=True, kw_only=True)
class EngineOptions(SystemOptions, DeviceOptions, TrainingOptions):
    """How something is trained: steps and rates, device, what is written; a task adds its own sections."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.patience and self.monitor == NO_METRIC:
            raise ValueError(f"--patience waits for a better --monitor, which is {NO_METRIC}; leave one of them out")
