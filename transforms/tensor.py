"""Between uint8 images in RGB order and the float tensors that networks read."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

_CHANNELS = 3


def to_tensor(images: Tensor) -> Tensor:
    """Return `images` as a network reads them, on their device.

    Args:
        images: uint8 [B, H, W, 3] or [H, W, 3], RGB.
    Returns:
        float32 [B, 3, H, W] or [3, H, W], contiguous, (v / 255 - 0.5) / 0.5 in [-1, 1], channel 0 red.
    Raises:
        TypeError: if images are not uint8. ValueError: if their shape is none of the two.
    """
    if images.dtype != torch.uint8:
        raise TypeError(
            f"to_tensor: images must be uint8, got {images.dtype}; they are already normalized or were not decoded."
        )
    if images.ndim not in (3, 4) or images.shape[-1] != _CHANNELS:
        raise ValueError(
            f"to_tensor: images must be [B, H, W, 3] or [H, W, 3], got {list(images.shape)}; channels come last here."
        )
    return images.movedim(-1, -3).contiguous().to(torch.float32).div_(255).sub_(0.5).div_(0.5)


def to_image(images: Tensor) -> Tensor:
    """Return the uint8 image that `to_tensor` turned into `images`, exactly.

    Args:
        images: floating [B, 3, H, W] or [3, H, W] in [-1, 1], RGB; values beyond are clipped.
    Returns:
        uint8 [B, H, W, 3] or [H, W, 3], contiguous, on the same device.
    Raises:
        TypeError: if images are not floating. ValueError: if their shape is none of the two.
    """
    if not images.is_floating_point():
        raise TypeError(f"to_image: images must be floating, got {images.dtype}; a uint8 image needs no conversion.")
    if images.ndim not in (3, 4) or images.shape[-3] != _CHANNELS:
        raise ValueError(
            f"to_image: images must be [B, 3, H, W] or [3, H, W], got {list(images.shape)}; channels come first here."
        )
    return images.float().mul(127.5).add(127.5).round().clamp(0, 255).to(torch.uint8).movedim(-3, -1).contiguous()


def visibility_map(mask: Tensor, height: int, width: int) -> Tensor:
    """Return the visible share of every cell of a feature map.

    Args:
        mask: uint8 or bool [B, H, W], 1 = visible.
        height: rows of the map.
        width: columns of the map.
    Returns:
        float32 [B, 1, height, width] in [0, 1]: the mean of the mask over each cell; where the sizes do not divide,
        neighbouring cells overlap by a pixel.
    Raises:
        TypeError: if the mask is floating. ValueError: if it is not [B, H, W].
    """
    if mask.is_floating_point():
        raise TypeError(
            f"visibility_map: mask must be uint8 or bool, got {mask.dtype}; a floating visibility is a map already."
        )
    if mask.ndim != 3:
        raise ValueError(
            f"visibility_map: mask must be [B, H, W], got {list(mask.shape)}; add or remove the batch dimension."
        )
    return functional.adaptive_avg_pool2d(mask.unsqueeze(1).to(torch.float32), (height, width))
