"""The moving average of the weights, which is what is validated, reported and evaluated."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback
from torch import Tensor

from engine.host import Trained, trained
from engine.internals import lerp_all

KEY = "weights_in_training"


class WeightAverage(Callback):
    """Keep an exponential moving average of the weights, and put it in their place wherever they are judged.

    After the update with the number n, from 0, average = d * average + (1 - d) * weights with
    d = min(decay, (1 + n) / (10 + n)): at first the average forgets the random start sooner. It follows every float
    tensor of the state dict, running statistics included: those of the last weights belong to other activations than
    the averaged weights have. Counters are those of training. What the module names in `not_averaged` is left out, and
    the same in training and evaluation.

    A step that was skipped leaves the weights as they are; to average them once more does no harm.

    The module holds the average during validations and from the end of the training on. A checkpoint has it in its
    `state_dict`, whatever the module holds at that moment, and under `weights_in_training` what training goes on with:
    who reads a checkpoint for anything but resuming needs to know nothing of this.

    The module must be `host.Trained`.

    Args:
        decay: in (0, 1).
    """

    def __init__(self, decay: float) -> None:
        self._decay = decay
        self._average: dict[str, Tensor] = {}  # by name in the state dict; while swapped, the weights in training
        self._is_swapped = False
        self._step = 0

    def on_load_checkpoint(self, trainer: pl.Trainer, module: pl.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Take the average, which the module has just been given, and let the module have the weights in training."""
        for name, tensor in _averaged_tensors(module).items():
            self._average[name] = tensor.detach().clone()
            tensor.data.copy_(checkpoint[KEY][name])

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Begin with the weights as they are, unless a checkpoint brought the average."""
        for name, tensor in _averaged_tensors(module).items():
            loaded = self._average.get(name)
            self._average[name] = tensor.detach().clone() if loaded is None else loaded.to(tensor.device)
        self._step = trainer.global_step

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Follow the weights after an update, not within a group of accumulated batches."""
        if trainer.global_step == self._step:
            return
        decay = min(self._decay, (1 + self._step) / (10 + self._step))
        self._step = trainer.global_step
        tensors = [tensor.detach() for tensor in _averaged_tensors(module).values()]
        lerp_all(list(self._average.values()), tensors, 1 - decay)

    def on_validation_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Put the average in place."""
        self._swap(module)

    def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Put the weights in training back."""
        self._swap(module)

    def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Leave the average in the module, for the test."""
        self._swap(module)

    def on_save_checkpoint(self, trainer: pl.Trainer, module: pl.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Give the checkpoint both."""
        state = checkpoint["state_dict"]
        here = {name: state[name] for name in self._average}
        checkpoint[KEY] = self._average if self._is_swapped else here
        state.update(here if self._is_swapped else self._average)

    def _swap(self, module: pl.LightningModule) -> None:
        for name, tensor in _averaged_tensors(module).items():
            tensor.data, self._average[name] = self._average[name], tensor.data
        self._is_swapped = not self._is_swapped


def _averaged_tensors(module: pl.LightningModule) -> dict[str, Tensor]:
    """Return the parameters and buffers that take part, by their names in the state dict."""
    return averaged(module.state_dict(keep_vars=True), trained(module))


def averaged(state: Mapping[str, Tensor], module: Trained) -> dict[str, Tensor]:
    """Return those entries of a module's state dict that take part in the average."""
    apart = module.not_averaged
    return {name: t for name, t in state.items() if t.is_floating_point() and not name.startswith(apart)}
