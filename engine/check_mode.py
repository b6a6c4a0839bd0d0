"""--check_mode: training that takes the same course on any number of ranks, to the last digits."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd


def enter(module: nn.Module) -> None:
    """Turn a module into float64, class maps included, and put its batch norms and dropout into eval mode.

    The norms then normalise each image by itself, with running statistics that stay; their weights are trained.
    Lightning keeps the modes of the parts: they outlive a validation.
    """
    module.double()
    for parameter in module.parameters():
        parameter.grad_dtype = parameter.dtype  # class maps were float16 with a float32 gradient
    for part in module.modules():
        if isinstance(part, _BatchNorm | _DropoutNd):
            part.eval()
