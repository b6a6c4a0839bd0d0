"""MobileFaceNet: inverted residuals and a learned global pooling."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from .backbone import MAP_SIZE, Backbone, initialize

MAP_CHANNELS = 512


class Row(NamedTuple):
    """A row of the paper's Table 1: `repeats` bottlenecks, the first of which strides."""

    expansion: int
    channels: int
    repeats: int
    stride: int


ROWS = (Row(2, 64, 5, 2), Row(4, 128, 1, 2), Row(2, 128, 6, 1), Row(4, 128, 1, 2), Row(2, 128, 2, 1))
DETAIL_ROWS = 3  # the next one strides for the last time


def conv_bn(in_channels: int, channels: int, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    """Return a convolution without bias that keeps the size at stride 1, and its batch norm."""
    return [
        nn.Conv2d(in_channels, channels, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(channels),
    ]


class Bottleneck(nn.Module):
    """Expand by 1x1, filter depthwise by 3x3, project by 1x1 without activation; add the input where shapes agree."""

    def __init__(self, in_channels: int, channels: int, expansion: int, stride: int) -> None:
        super().__init__()
        hidden = in_channels * expansion
        self.residual = stride == 1 and in_channels == channels
        self.layers = nn.Sequential(
            *conv_bn(in_channels, hidden, 1),
            nn.PReLU(hidden),
            *conv_bn(hidden, hidden, 3, stride, groups=hidden),
            nn.PReLU(hidden),
            *conv_bn(hidden, channels, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return [B, channels, ceil(h / stride), ceil(w / stride)] of x [B, in_channels, h, w]."""
        return x + self.layers(x) if self.residual else self.layers(x)


class MobileFaceNet(Backbone):
    """MobileFaceNet, 1.0 M parameters at the paper's embedding size of 128.

    The feature map is what the global depthwise convolution pools: [512, 7, 7].

    Args:
        embedding_size: length D of the embedding.
    Reference: Chen, Liu, Gao, Han, "MobileFaceNets", CCBR 2018, arXiv:1804.07573, Table 1.
    """

    map_shape = (MAP_CHANNELS, MAP_SIZE, MAP_SIZE)
    detail_channels = ROWS[DETAIL_ROWS - 1].channels
    detail_blocks = sum(row.repeats for row in ROWS[:DETAIL_ROWS])

    def __init__(self, embedding_size: int) -> None:
        super().__init__()
        self.embedding_size = embedding_size
        self.input_layer = nn.Sequential(
            *conv_bn(3, 64, 3, stride=2), nn.PReLU(64), *conv_bn(64, 64, 3, groups=64), nn.PReLU(64)
        )
        blocks: list[nn.Module] = []
        in_channels = 64
        for expansion, channels, repeats, stride in ROWS:
            for index in range(repeats):
                blocks.append(Bottleneck(in_channels, channels, expansion, stride if index == 0 else 1))
                in_channels = channels
        blocks.append(nn.Sequential(*conv_bn(in_channels, MAP_CHANNELS, 1), nn.PReLU(MAP_CHANNELS)))
        self.body = nn.Sequential(*blocks)
        self.output_layer = nn.Sequential(
            nn.Conv2d(MAP_CHANNELS, MAP_CHANNELS, MAP_SIZE, groups=MAP_CHANNELS, bias=False),
            nn.BatchNorm2d(MAP_CHANNELS),
            nn.Flatten(),
            nn.Linear(MAP_CHANNELS, embedding_size, bias=False),
            nn.BatchNorm1d(embedding_size),
        )
        initialize(self)
