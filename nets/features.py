"""What a backbone returns, and the one place where an embedding gets its unit length."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ops import at_least_float32

# Below this length an output has no direction to speak of; float32 squares of smaller values underflow.
MIN_NORM = 1e-12


class Features(NamedTuple):
    """What a backbone returns, in training, evaluation and export alike.

    Attributes:
        embedding: [B, D] at least float32, unit L2 length (all zeros where the network's output is zero).
        norm: [B, 1] at least float32, L2 length before normalising.
        feature_map: [B, C, h, w], raw output of the last body block, in the dtype the body computed in.
    """

    embedding: Tensor
    norm: Tensor
    feature_map: Tensor


def split_norm(outputs: Tensor) -> tuple[Tensor, Tensor]:
    """Split outputs into unit vectors and their lengths.

    Values and gradients are finite everywhere: outputs shorter than 1e-12 are returned as they are instead of
    being divided, so a zero stays zero.

    Args:
        outputs: [B, D] floating.
    Returns:
        ([B, D] unit vectors, [B, 1] lengths), float64 for float64 outputs, else float32.
    """
    outputs = at_least_float32(outputs)
    norm = torch.linalg.vector_norm(outputs, dim=1, keepdim=True)
    divisor = torch.where(norm > MIN_NORM, norm, 1.0)
    return outputs / divisor, norm
