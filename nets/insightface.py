"""InsightFace's own IResNet, laid out like the files of arcface_torch; MagFace's networks are the same.

It differs from AdaFace's (`iresnet.py`) in names, and in the first block of the first stage: there too the shortcut is
a strided 1x1 convolution. The order in which modules are created is the order of the state-dict keys.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from .backbone import MAP_SIZE, Backbone, initialize
from .iresnet import CHANNELS

DEPTHS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 14, 3), 100: (3, 13, 30, 3), 200: (6, 26, 60, 6)}


class Block(nn.Module):
    """BN, 3x3 conv, BN, PReLU, strided 3x3 conv, BN, plus the input: as it is, or projected where the block strides."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.prelu = nn.PReLU(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels)
        self.downsample: nn.Module | None = None
        if stride > 1:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Return [B, channels, ceil(h / stride), ceil(w / stride)] of x [B, in_channels, h, w]."""
        branch = self.prelu(self.bn2(self.conv1(self.bn1(x))))
        return self.bn3(self.conv2(branch)) + (x if self.downsample is None else self.downsample(x))


class InsightFaceIResNet(Backbone):
    """IResNet as arcface_torch trains it: stages of 64, 128, 256 and 512 channels, each strides in its first block.

    Args:
        embedding_size: length D of the embedding.
        depth: a key of `DEPTHS`, the blocks of each stage.
    Reference: Deng et al., "ArcFace", CVPR 2019, arXiv:1801.07698; layout and depths: insightface,
        recognition/arcface_torch/backbones/iresnet.py. Meng et al., "MagFace", CVPR 2021, arXiv:2103.06627.
    """

    first_convolution = "conv1.weight"
    last_linear = "fc.weight"
    map_shape = (CHANNELS[-1], MAP_SIZE, MAP_SIZE)
    detail_channels = CHANNELS[-2]

    def __init__(self, embedding_size: int, depth: int) -> None:
        super().__init__()
        self.embedding_size = embedding_size
        self.detail_blocks = sum(DEPTHS[depth][:-1])
        self.conv1 = nn.Conv2d(3, CHANNELS[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(CHANNELS[0])
        self.prelu = nn.PReLU(CHANNELS[0])
        self.layer1, self.layer2, self.layer3, self.layer4 = _stages(DEPTHS[depth])
        self.bn2 = nn.BatchNorm2d(CHANNELS[-1])
        self.fc = nn.Linear(CHANNELS[-1] * MAP_SIZE * MAP_SIZE, embedding_size)
        self.features = nn.BatchNorm1d(embedding_size)
        # InsightFace leaves the lengths of outputs as the batch norm makes them.
        self.features.weight.requires_grad = False
        initialize(self)

    def parts(self) -> tuple[Callable[[Tensor], Tensor], list[nn.Module], Callable[[Tensor], Tensor]]:
        """Return the stem, the blocks of all stages, and the output layers."""
        return self._stem, [*self.layer1, *self.layer2, *self.layer3, *self.layer4], self._output

    def _stem(self, images: Tensor) -> Tensor:
        return self.prelu(self.bn1(self.conv1(images)))

    def _output(self, feature_map: Tensor) -> Tensor:
        return self.features(self.fc(torch.flatten(self.bn2(feature_map), 1)))


def _stages(depths: Sequence[int]) -> list[nn.Sequential]:
    stages, in_channels = [], CHANNELS[0]
    for channels, depth in zip(CHANNELS, depths, strict=True):
        blocks = [Block(in_channels, channels, stride=2), *(Block(channels, channels, 1) for _ in range(1, depth))]
        stages.append(nn.Sequential(*blocks))
        in_channels = channels
    return stages
