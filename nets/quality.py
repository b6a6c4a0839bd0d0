"""How good an image is, told from the image alone: the same in training and wherever a face is described."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from ops import at_least_float32

_LUMA = (0.299, 0.587, 0.114)  # of R, G and B, ITU-R BT.601
_CELL = 4  # pixels; in cells of 2 noise would tell more than the face does
_LEAST, _MOST = 0.09, 0.30  # of the contrast that cells lose: faces that were 8 pixels wide, and 112
_ROUNDING = 0.5 / 127.5  # half a gray level, for an image without contrast


@torch.no_grad()
def image_quality(images: Tensor) -> Tensor:
    """Return how much fine detail images hold, [B] at least float32 in [0, 1]; there is no gradient.

    Contrast is the standard deviation of the brightness. What averages of 4 x 4 pixels lose of it, as a share, grows
    with the resolution of a face: about 0.09 for one that was enlarged from 8 pixels, 0.14 from 16, 0.20 from 32, 0.25
    from 64, 0.30 for one of 112 (drawn faces, and photographs of 92 pixels); that range becomes 0 to 1. Noise and JPEG
    blocks are detail too: noise of 5 gray levels makes a face of 16 pixels look like one of 24.

    Args:
        images: [B, 3, H, W] floating in [-1, 1], RGB.
    """
    pixels = at_least_float32(images)
    brightness = sum(weight * pixels[:, channel] for channel, weight in enumerate(_LUMA))
    assert isinstance(brightness, Tensor)
    contrast, kept = (part.var((1, 2), correction=0) for part in (brightness, functional.avg_pool2d(brightness, _CELL)))
    lost = ((contrast - kept).clamp(min=0) / (contrast + _ROUNDING**2)).sqrt()
    return ((lost - _LEAST) / (_MOST - _LEAST)).clamp(0, 1)
