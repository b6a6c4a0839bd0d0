"""IResNet and its squeeze-excite variant, laid out like AdaFace's public checkpoints.

The order in which modules are created is the order of the state-dict keys (input_layer, output_layer, body; in a
block: shortcut_layer, res_layer) and therefore part of the format.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor, nn

from .backbone import MAP_SIZE, Backbone, initialize

CHANNELS = (64, 128, 256, 512)


class Stage(NamedTuple):
    """A stage of the body: `depth` blocks of `channels`, the first of which strides."""

    channels: int
    depth: int
    stride: int


class Subsample(nn.Module):
    """Keep every `stride`-th row and column: a max pool with kernel 1, without its index tensor."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """Return [B, C, ceil(h / stride), ceil(w / stride)] of x [B, C, h, w]."""
        return x[:, :, :: self.stride, :: self.stride]


class SqueezeExcite(nn.Module):
    """Weigh channels by a gate in (0, 1) computed from their global means.

    Reference: Hu, Shen, Sun, "Squeeze-and-Excitation Networks", CVPR 2018, arXiv:1709.01507.
    """

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, channels // reduction, 1, bias=False)
        self.relu = nn.ReLU(inplace=True)
        self.fc2 = nn.Conv2d(channels // reduction, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return x [B, C, h, w] times the gate of each channel."""
        means = x.mean(dim=(2, 3), keepdim=True)
        return x * self.fc2(self.relu(self.fc1(means))).sigmoid()


class ResidualBlock(nn.Module):
    """Improved residual unit: BN, 3x3 conv, BN, PReLU, strided 3x3 conv, BN (and squeeze-excite), plus the shortcut."""

    def __init__(self, in_channels: int, channels: int, stride: int, squeeze_excite: bool = False) -> None:
        super().__init__()
        self.shortcut_layer: nn.Module = Subsample(stride)
        if in_channels != channels:
            self.shortcut_layer = nn.Sequential(
                nn.Conv2d(in_channels, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )
        self.res_layer = nn.Sequential(
            nn.BatchNorm2d(in_channels),
            nn.Conv2d(in_channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.PReLU(channels),
            nn.Conv2d(channels, channels, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(channels),
        )
        if squeeze_excite:
            self.res_layer.add_module("se_block", SqueezeExcite(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Return [B, channels, ceil(h / stride), ceil(w / stride)] of x [B, in_channels, h, w]."""
        return self.res_layer(x) + self.shortcut_layer(x)


class IResNet(Backbone):
    """Improved residual network for aligned faces.

    Args:
        input_layer: stem, [B, 3, 112, 112] to [B, stem_channels, ...].
        stem_channels: channels that the stem returns.
        stages: the body; stem and stages together stride by 16.
        embedding_size: length D of the embedding.
        squeeze_excite: gate the channels of every residual branch.
        dropout: probability in the output layer.
    Reference: Deng et al., "ArcFace", CVPR 2019, arXiv:1801.07698, Sec. 3.1; Kim, Jain, Liu, "AdaFace", CVPR 2022,
        arXiv:2204.00964, whose checkpoints stride in the first block of every stage.
    """

    def __init__(
        self,
        input_layer: nn.Sequential,
        stem_channels: int,
        stages: Sequence[Stage],
        embedding_size: int,
        squeeze_excite: bool = False,
        dropout: float = 0.4,
    ) -> None:
        super().__init__()
        self.embedding_size = embedding_size
        self.map_shape = (stages[-1].channels, MAP_SIZE, MAP_SIZE)
        self.detail_channels = stages[-2].channels
        self.detail_blocks = sum(stage.depth for stage in stages[:-1])
        self.input_layer = input_layer
        self.output_layer = nn.Sequential(
            nn.BatchNorm2d(stages[-1].channels),
            nn.Dropout(dropout),
            nn.Flatten(),
            nn.Linear(stages[-1].channels * MAP_SIZE * MAP_SIZE, embedding_size),
            nn.BatchNorm1d(embedding_size, affine=False),
        )
        blocks = []
        in_channels = stem_channels
        for channels, depth, stride in stages:
            for index in range(depth):
                blocks.append(ResidualBlock(in_channels, channels, stride if index == 0 else 1, squeeze_excite))
                in_channels = channels
        self.body = nn.Sequential(*blocks)
        initialize(self)


def conv_bn_prelu(in_channels: int, channels: int, stride: int = 1) -> list[nn.Module]:
    """Return the layers of a 3x3 convolution without bias, batch norm and PReLU."""
    return [
        nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False),
        nn.BatchNorm2d(channels),
        nn.PReLU(channels),
    ]


def iresnet(embedding_size: int, depths: Sequence[int], squeeze_excite: bool = False) -> IResNet:
    """Return the IResNet of AdaFace's checkpoints with `depths` blocks of 64, 128, 256 and 512 channels."""
    stages = [Stage(channels, depth, stride=2) for channels, depth in zip(CHANNELS, depths, strict=True)]
    stem = nn.Sequential(*conv_bn_prelu(3, CHANNELS[0]))
    return IResNet(stem, CHANNELS[0], stages, embedding_size, squeeze_excite)
