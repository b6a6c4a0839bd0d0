"""A clock that follows a training step from part to part, forward and backward, without changing it."""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from functools import partial
from typing import Any, NamedTuple

import pytorch_lightning as pl
from torch import Tensor, nn

from train_val import Recognizer

DATA, LOSSES, OPTIMIZER = "data", "losses", "optimizer"
BACKBONE, HEAD, OCCLUSION_HEAD, QACONV = "backbone", "margin head", "occlusion head", "QAConv"


class Stretch(NamedTuple):
    """What the time between two marks went into."""

    part: str
    backward: bool = False


class StepClock(pl.Callback):
    """Split the time of every training step among its parts; nothing is left out.

    Forward, a part's time runs from its module's call to its return. Backward, it starts when the gradient of the
    module's output is complete and ends when that of the next output is: autograd runs in the reverse of the forward
    order. What no module owns (cross entropy, unit maps, losses over the scores, running means) counts as losses, but
    for the backward pass of the unit maps and the cross entropy, which count to QAConv and the occlusion head. "Data"
    is all between two steps, and the images' way to float. "Optimizer" includes the check of the gradients.

    Attributes:
        steps: of each step, the seconds of its stretches in the order in which they began.
    """

    def __init__(self) -> None:
        self.steps: list[dict[Stretch, float]] = []
        self._current: dict[Stretch, float] = defaultdict(float)
        self._stretch = Stretch(DATA)
        self._since = 0.0

    def _enter(self, stretch: Stretch) -> None:
        now = time.perf_counter()
        self._current[self._stretch] += now - self._since
        self._stretch, self._since = stretch, now

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Follow the modules of the Recognizer and start."""
        assert isinstance(pl_module, Recognizer)
        parts: dict[str, nn.Module | None] = {
            BACKBONE: pl_module.model,
            HEAD: pl_module.head,
            OCCLUSION_HEAD: pl_module.occlusion_head,
            QACONV: pl_module.matcher,
        }
        for part, module in parts.items():
            if module is not None:
                module.register_forward_pre_hook(partial(self._enter_module, part))
                module.register_forward_hook(partial(self._leave_module, part))
        self._since = time.perf_counter()

    def _enter_module(self, part: str, module: nn.Module, inputs: Any) -> None:
        self._enter(Stretch(part))

    def _leave_module(self, part: str, module: nn.Module, inputs: Any, output: Any) -> None:
        self._enter(Stretch(LOSSES))
        tensor: Tensor = output[0] if isinstance(output, tuple) else output  # of Features, the embedding comes first
        tensor.register_hook(lambda gradient: self._enter(Stretch(part, backward=True)))

    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Tensor) -> None:
        """Go on with the losses' backward pass."""
        self._enter(Stretch(LOSSES, backward=True))

    def on_after_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Go on with the optimizer."""
        self._enter(Stretch(OPTIMIZER))

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Close the step."""
        self._enter(Stretch(DATA))
        self.steps.append(dict(self._current))
        self._current.clear()

    def medians(self, num_warmup: int) -> dict[Stretch, float]:
        """Return the median seconds of every stretch over the steps after the first `num_warmup`."""
        steps = self.steps[num_warmup:]
        return {stretch: statistics.median(step.get(stretch, 0.0) for step in steps) for stretch in steps[0]}
