"""Attention over channels, then over positions, as two publications of FeatherFace apply it to maps."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

KERNEL = 7  # of the attention over positions


class ChannelGate(nn.Module):
    """Weigh channels by the sigmoid of a small network of their means plus the same of their maxima."""

    def __init__(self, channels: int, reduction: int) -> None:
        super().__init__()
        hidden = channels // reduction
        self.mlp = nn.Sequential(nn.Identity(), nn.Linear(channels, hidden), nn.ReLU(), nn.Linear(hidden, channels))

    def forward(self, x: Tensor) -> Tensor:
        """Return x [B, C, h, w] times a gate [B, C, 1, 1] in (0, 1)."""
        gate = self.mlp(x.mean(dim=(2, 3))) + self.mlp(x.amax(dim=(2, 3)))
        return x * gate.sigmoid()[..., None, None]


class NormalizedConvolution(nn.Module):
    """The convolution of the attention over positions, with a batch norm of one channel."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 1, KERNEL, padding=KERNEL // 2, bias=False)
        self.bn = nn.BatchNorm2d(1, momentum=0.01)

    def forward(self, x: Tensor) -> Tensor:
        """Return [B, 1, h, w] of x [B, 2, h, w]."""
        return self.bn(self.conv(x))


class SpatialGate(nn.Module):
    """Weigh positions by a convolution over the maximum and the mean of their channels."""

    def __init__(self) -> None:
        super().__init__()
        self.spatial = NormalizedConvolution()

    def forward(self, x: Tensor) -> Tensor:
        """Return x [B, C, h, w] times a gate [B, 1, h, w] in (0, 1)."""
        seen = torch.cat([x.amax(dim=1, keepdim=True), x.mean(dim=1, keepdim=True)], dim=1)
        return x * self.spatial(seen).sigmoid()


class CBAM(nn.Module):
    """Convolutional block attention with its input added and a ReLU.

    Reference: Woo et al., "CBAM: Convolutional Block Attention Module", ECCV 2018, arXiv:1807.06521.
    """

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        self.ChannelGate = ChannelGate(channels, reduction)
        self.SpatialGate = SpatialGate()

    def forward(self, x: Tensor) -> Tensor:
        """Return [B, C, h, w] of x [B, C, h, w]."""
        return torch.relu(x + self.SpatialGate(self.ChannelGate(x)))


class EfficientChannelGate(nn.Module):
    """Weigh channels by a 1-d convolution over their means: each channel hears a few neighbours.

    Reference: Wang et al., "ECA-Net", CVPR 2020, arXiv:1910.03151, Eq. 12 with gamma 2 and b 1.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        kernel = int((math.log2(channels) + 1) / 2) | 1  # odd: an even size grows by one
        self.conv = nn.Conv1d(1, 1, kernel, padding=kernel // 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return x [B, C, h, w] times a gate [B, C, 1, 1] in (0, 1)."""
        gate = self.conv(x.mean(dim=(2, 3))[:, None])[:, 0]
        return x * gate.sigmoid()[..., None, None]


class PlainSpatialGate(nn.Module):
    """Weigh positions as `SpatialGate` does, by the mean before the maximum and without a batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 1, KERNEL, padding=KERNEL // 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return x [B, C, h, w] times a gate [B, 1, h, w] in (0, 1)."""
        seen = torch.cat([x.mean(dim=1, keepdim=True), x.amax(dim=1, keepdim=True)], dim=1)
        return x * self.conv(seen).sigmoid()


class ECACBAM(nn.Module):
    """Efficient channel attention, then CBAM's attention over positions; nothing is added."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.eca = EfficientChannelGate(channels)
        self.sam = PlainSpatialGate()

    def forward(self, x: Tensor) -> Tensor:
        """Return [B, C, h, w] of x [B, C, h, w]."""
        return self.sam(self.eca(x))


class Attention(NamedTuple):
    """A kind of attention, and what public files call it at each level, before the pyramid and after it."""

    build: Callable[[int], nn.Module]
    before: str
    after: str


ATTENTIONS = {
    "cbam": Attention(CBAM, "bacbkbone_{}_cbam", "bif_cbam_{}"),  # the typing error is in the public keys
    "eca_cbam": Attention(ECACBAM, "backbone_attention_{}", "bifpn_attention_{}"),
}
