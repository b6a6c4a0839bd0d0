"""What the steps of a training take: time of each, and of one of them time and memory of every phase."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from system.memory import peak_resident, restart_peak

PHASES = ("data", "forward", "backward", "optimizer")


class HostMeter:
    """Time and memory of this process.

    Attributes:
        device: that it is of.
        highest: the most bytes seen so far; 0: not known.
    """

    device = torch.device("cpu")

    def __init__(self) -> None:
        self.highest = 0

    def mark(self) -> Any:
        """Return a moment."""
        return time.perf_counter()

    def between(self, first: Any, last: Any) -> float:
        """Return the seconds between two moments."""
        return float(last - first)

    def take_peak(self) -> int | None:
        """Return the most bytes held since the last call, and begin anew; None where that is not to be had."""
        peak = peak_resident()
        self.highest = max(self.highest, peak or 0)
        return peak if restart_peak() else None


class GpuMeter(HostMeter):
    """Time of a GPU, which the host runs ahead of, and what torch has reserved of its memory.

    A peak of a phase is what tensors took; the highest counts what torch keeps from the others for them.
    """

    device = torch.device("cuda")

    def mark(self) -> Any:
        """Return a moment of the GPU; nobody waits for it."""
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def between(self, first: Any, last: Any) -> float:
        """Return the seconds between two moments; the host waits for the second."""
        last.synchronize()
        return float(first.elapsed_time(last)) / 1000

    def take_peak(self) -> int | None:
        """Return the most bytes of tensors since the last call, and begin anew."""
        torch.cuda.synchronize()
        self.highest = max(self.highest, torch.cuda.max_memory_reserved())
        peak = torch.cuda.max_memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        return peak


def meter_on(on_gpu: bool) -> HostMeter:
    """Return what measures there."""
    return GpuMeter() if on_gpu else HostMeter()


class StepWatch(pl.Callback):
    """Time some optimizer steps after others that do not count, look into one more, and end the training.

    Looking waits for a GPU at every phase: those steps are not timed.

    Args:
        meter: of the device.
        num_warmup, num_timed: optimizer steps.
        began: is called when the training begins, its data ready.
    Attributes:
        meter: as given.
        step_seconds: of each timed step, from the end of the one before: waiting for data included.
        batches: of the step looked into.
        phases: its seconds and peak_bytes, by name.
    """

    def __init__(self, meter: HostMeter, num_warmup: int, num_timed: int, began: Callable[[], None]) -> None:
        self.step_seconds: list[float] = []
        self.batches = 0
        self.phases: dict[str, dict[str, float | None]] = {}
        self.meter = meter
        self._num_warmup, self._num_timed, self._began = num_warmup, num_timed, began
        self._marks: list[Any] = []
        self._since: Any = None
        self._looks = False

    @property
    def num_steps(self) -> int:
        """Return how many steps it takes in all."""
        return self._num_warmup + self._num_timed + 1

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin; with nothing else to wait for, the step to look into may be the first."""
        self._began()
        self._marks.append(self.meter.mark())
        self.meter.take_peak()
        self._begin_to_look(trainer.global_step)

    def _begin_to_look(self, step: int) -> None:
        self._looks = step == self.num_steps - 1
        if self._looks:
            self.meter.take_peak()
            self._since = self.meter.mark()

    def _end_phase(self, name: str) -> None:
        if not self._looks:
            return
        peak, now = self.meter.take_peak(), self.meter.mark()
        before = self.phases.get(name, {"seconds": 0.0, "peak_bytes": None})
        peaks = [each for each in (before["peak_bytes"], peak) if each is not None]
        seconds = (before["seconds"] or 0.0) + self.meter.between(self._since, now)
        self.phases[name] = {"seconds": seconds, "peak_bytes": max(peaks, default=None)}
        self._since = now

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """The batch is there, on the device."""
        self._end_phase("data")

    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Tensor) -> None:
        """The loss is known."""
        self._end_phase("forward")

    def on_after_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The gradients are."""
        self._end_phase("backward")

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Close a step, if the weights have moved; end the training after the last one."""
        self._end_phase("optimizer")
        self.batches += self._looks
        step = trainer.global_step
        if step < len(self._marks):
            return  # gradients are still being accumulated
        self._marks.append(self.meter.mark())
        if self._looks:
            trainer.should_stop = True
        else:
            self._begin_to_look(step)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Read the time of the steps that count."""
        self.meter.take_peak()
        timed = self._marks[self._num_warmup : self._num_warmup + self._num_timed + 1]
        self.step_seconds = [self.meter.between(*pair) for pair in pairwise(timed)]
