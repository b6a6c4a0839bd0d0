"""The precision below which nothing is summed, normalised or averaged."""

import torch
from torch import Tensor


def at_least_float32(values: Tensor) -> Tensor:
    """Return the values in float32; those in float64 as they are, the same tensor."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
