"""What every backbone returns, and the one place where an embedding gets its unit length."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

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
    outputs = outputs.to(torch.promote_types(outputs.dtype, torch.float32))
    norm = torch.linalg.vector_norm(outputs, dim=1, keepdim=True)
    divisor = torch.where(norm > MIN_NORM, norm, 1.0)
    return outputs / divisor, norm


def check_images(images: Tensor, size: int) -> None:
    """Refuse images of another layout or size than [B, 3, size, size].

    Raises:
        ValueError: naming the expected and the received shape.
    """
    if images.ndim != 4 or images.shape[1:] != (3, size, size):
        raise ValueError(
            f"model(images): expected images [B, 3, {size}, {size}] in [-1, 1], RGB, got {list(images.shape)}; "
            f"use transforms.to_tensor on crops of {size} x {size}"
        )


def initialise(model: nn.Module) -> None:
    """Draw the weights for training from scratch: Kaiming normal (fan out), biases 0, batch norms 1 and 0.

    The fan of a grouped convolution is counted per group.

    Reference: He et al., "Delving Deep into Rectifiers", ICCV 2015, arXiv:1502.01852.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if isinstance(module, nn.Conv2d) and module.groups > 1:
                module.weight.data.mul_(module.groups**0.5)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
