"""What a level does with its map before the heads read it: SSH and the mixing of channels."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from .deformable import DeformableConv2d
from .mobilenet import convolution, depthwise
from .pyramid import slope


def _deformable(in_channels: int, channels: int) -> list[nn.Module]:
    return [DeformableConv2d(in_channels, channels), nn.BatchNorm2d(channels)]


# (channels in, channels out) -> the layers up to the batch norm; the activation is SSH's
CONVOLUTIONS: dict[str, Callable[[int, int], list[nn.Module]]] = {
    "plain": convolution,
    "deformable": _deformable,
    "depthwise": depthwise,
}


class SSH(nn.Module):
    """Context in three sizes: half of the channels see 3x3, a quarter 5x5, a quarter 7x7, out of 3x3 convolutions.

    Args:
        width: channels in and out; a multiple of 4.
        kind: of the convolutions, a key of `CONVOLUTIONS`.
    Reference: Najibi et al., "SSH: Single Stage Headless Face Detector", ICCV 2017, arXiv:1708.03979, Fig. 4, with the
        halves and quarters of RetinaFace's public code.
    """

    def __init__(self, width: int, kind: str) -> None:
        super().__init__()
        layers, quarter = CONVOLUTIONS[kind], width // 4

        def activated(in_channels: int) -> nn.Sequential:
            return nn.Sequential(*layers(in_channels, quarter), nn.LeakyReLU(slope(width), inplace=True))

        self.conv3X3 = nn.Sequential(*layers(width, width // 2))
        self.conv5X5_1 = activated(width)
        self.conv5X5_2 = nn.Sequential(*layers(quarter, quarter))
        self.conv7X7_2 = activated(quarter)
        self.conv7x7_3 = nn.Sequential(*layers(quarter, quarter))

    def forward(self, x: Tensor) -> Tensor:
        """Return [B, width, h, w] of x [B, width, h, w], not negative."""
        middle = self.conv5X5_1(x)
        return torch.relu(
            torch.cat([self.conv3X3(x), self.conv5X5_2(middle), self.conv7x7_3(self.conv7X7_2(middle))], dim=1)
        )


class EvenOdd(nn.Module):
    """Even channels first, then the odd ones: ShuffleNet's shuffle backwards, as public FeatherFace files expect it.

    Reference: Zhang et al., "ShuffleNet", CVPR 2018, arXiv:1707.01083, Sec. 3.1.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return [B, C, h, w] of x [B, C, h, w], C even."""
        return x.unflatten(1, (-1, 2)).transpose(1, 2).flatten(1, 2)


def _shuffle(_width: int) -> list[nn.Module]:
    return [EvenOdd()]


def _bottleneck(width: int) -> list[nn.Module]:
    half = width // 2
    return [
        EvenOdd(),
        *convolution(width, half, kernel=1),
        nn.Conv2d(half, half, 3, padding=1, groups=half, bias=False),
        nn.BatchNorm2d(half),
        *convolution(half, width, kernel=1),
        nn.ReLU(inplace=True),
    ]


MIXINGS: dict[str, Callable[[int], list[nn.Module]]] = {"shuffle": _shuffle, "bottleneck": _bottleneck}
