"""Modulated deformable convolution out of torch's own operators.

torchvision's operator has no CPU build beside torch's CPU wheels, and a custom one would not export. This one is a
1x1 convolution and a grid_sample, so it exports, trains and runs wherever torch does.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ops import at_least_float32


def deform_conv2d(x: Tensor, offset: Tensor, mask: Tensor, weight: Tensor) -> Tensor:
    """Return a convolution whose every point reads where its offset says, times its mask; stride 1, same size.

    With kernel point n at displacement d_n, out(p) = sum over n of mask_n(p) * weight_n @ x(p + d_n + offset_n(p)), x
    between pixels bilinear and 0 outside. Weights come first, since sampling is linear: a network that narrows then
    samples `out` channels, not `in`.

    Args:
        x: [B, in, h, w] floating.
        offset: [B, 2 * k * k, h, w], pixels: of each point, row by row, first down, then to the right.
        mask: [B, k * k, h, w].
        weight: [out, in, k, k], k odd.
    Returns:
        [B, out, h, w].
    Reference: Zhu et al., "Deformable ConvNets v2", CVPR 2019, arXiv:1811.11168, Eq. 1; ONNX DeformConv with pads
        k // 2, whose layout of offsets this is.
    """
    batch, _, height, width = x.shape
    out, _, kernel, _ = weight.shape
    points = kernel * kernel
    each = F.conv2d(x, weight.permute(2, 3, 0, 1).flatten(0, 2)[..., None, None])  # a 1x1 convolution for each point
    # In half precision positions would be off by whole pixels, and grid_sample wants image and positions of one kind.
    sampled_from = at_least_float32(each).reshape(batch * points, out, height, width)
    offset = offset.to(sampled_from.dtype).unflatten(1, (points, 2))
    point = torch.arange(points, device=x.device)
    down = (point // kernel - kernel // 2)[:, None, None] + torch.arange(height, device=x.device)[:, None]
    right = (point % kernel - kernel // 2)[:, None, None] + torch.arange(width, device=x.device)
    # It also wants x before y, in units in which the outer edges of the map are -1 and 1.
    grid = torch.stack(
        [(2 * (offset[:, :, 1] + right) + 1) / width - 1, (2 * (offset[:, :, 0] + down) + 1) / height - 1], dim=-1
    )
    sampled = F.grid_sample(sampled_from, grid.flatten(0, 1), align_corners=False).unflatten(0, (batch, points))
    return (sampled * mask[:, :, None]).sum(1).to(each.dtype)


class DeformableConv2d(nn.Module):
    """A 3x3 convolution that learns from its input where to look (offsets) and how much it counts there (2 * sigmoid).

    Offsets and modulation start at 0 and 1, which is a plain convolution; see `Detector`, which draws all weights.
    """

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.offset_conv = nn.Conv2d(in_channels, 18, 3, padding=1)
        self.modulator_conv = nn.Conv2d(in_channels, 9, 3, padding=1)
        self.regular_conv = nn.Conv2d(in_channels, channels, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return [B, channels, h, w] of x [B, in_channels, h, w]."""
        mask = 2 * self.modulator_conv(x).sigmoid()
        return deform_conv2d(x, self.offset_conv(x), mask, self.regular_conv.weight)
