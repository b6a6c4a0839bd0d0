"""Pyramids: three maps of the backbone -> three maps of one width that know of each other."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .mobilenet import CHANNELS, convolution

Maps = tuple[Tensor, Tensor, Tensor]  # [B, C, h, w] at strides 8, 16 and 32

FUSION_EPSILON = 1e-4


def slope(width: int) -> float:
    """Return the negative slope behind convolutions of a pyramid or an SSH: wide ones have plain ReLUs."""
    return 0.1 if width <= 64 else 0.0


def _enlarged(coarse: Tensor, fine: Tensor) -> Tensor:
    """Return a map with the sides of a finer one, by nearest neighbours."""
    return F.interpolate(coarse, size=fine.shape[2:], mode="nearest")


def _halved(x: Tensor) -> Tensor:
    """Return the maximum over 3x3 at every second position, padded by zeros as TensorFlow's "same" does.

    Exactly so: where all values are negative, a padded zero is the maximum.
    """
    height, width = x.shape[2:]
    # (ceil(side / 2) - 1) * 2 + 3 - side. Not by -(-side // 2): in ONNX whole numbers are divided towards 0.
    down, right = (1 + side % 2 for side in (height, width))
    return F.max_pool2d(F.pad(x, [right // 2, right - right // 2, down // 2, down - down // 2]), 3, 2)


class FPN(nn.Module):
    """The top-down pyramid of RetinaFace.

    Reference: Lin et al., "Feature Pyramid Networks for Object Detection", CVPR 2017, arXiv:1612.03144.
    """

    def __init__(self, width: int) -> None:
        super().__init__()

        def layers(in_channels: int, kernel: int) -> nn.Sequential:
            activation = nn.LeakyReLU(slope(width), inplace=True)
            return nn.Sequential(*convolution(in_channels, width, kernel), activation)

        self.output1, self.output2, self.output3 = (layers(channels, 1) for channels in CHANNELS)
        self.merge1, self.merge2 = layers(width, 3), layers(width, 3)

    def forward(self, maps: Maps) -> Maps:
        """Return three maps of `width` channels."""
        fine, middle, coarse = self.output1(maps[0]), self.output2(maps[1]), self.output3(maps[2])
        middle = self.merge2(middle + _enlarged(coarse, middle))
        return self.merge1(fine + _enlarged(middle, fine)), middle, coarse


class Convolution(nn.Module):
    """A convolution under the name that EfficientDet's files give to one with their padding."""

    def __init__(self, in_channels: int, channels: int, kernel: int = 1, groups: int = 1, bias: bool = True) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, channels, kernel, padding=kernel // 2, groups=groups, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return [B, channels, h, w] of x [B, in_channels, h, w]."""
        return self.conv(x)


def _norm(width: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(width, eps=1e-3, momentum=0.01)  # as EfficientDet's


class Separable(nn.Module):
    """Swish, a 3x3 convolution of each channel, a 1x1 convolution with bias, and a batch norm."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.depthwise_conv = Convolution(width, width, 3, groups=width, bias=False)
        self.pointwise_conv = Convolution(width, width)
        self.bn = _norm(width)

    def forward(self, x: Tensor) -> Tensor:
        """Return [B, width, h, w] of x [B, width, h, w]."""
        return self.bn(self.pointwise_conv(self.depthwise_conv(F.silu(x))))


def _lateral(in_channels: int, width: int) -> nn.Sequential:
    return nn.Sequential(Convolution(in_channels, width), _norm(width))


class BiFPN(nn.Module):
    """A cell that goes down the pyramid and up again; maps are added with learned shares.

    The three shares into the coarsest map are normalized together, but only two maps arrive there: so in all public
    files, whose keys these are.

    Args:
        width: channels of the three maps.
        is_first: whether its input has the channels of the backbone; then it starts with 1x1 convolutions.
        has_second_laterals: whether what goes up reads the two coarse maps through 1x1 convolutions of its own.
    Reference: Tan, Pang, Le, "EfficientDet", CVPR 2020, arXiv:1911.09070, Sec. 3.
    """

    def __init__(self, width: int, is_first: bool, has_second_laterals: bool = True) -> None:
        super().__init__()
        self.conv4_up, self.conv3_up = Separable(width), Separable(width)
        self.conv4_down, self.conv5_down = Separable(width), Separable(width)
        self.is_first = is_first
        self.has_second_laterals = is_first and has_second_laterals
        if is_first:
            self.p5_down_channel = _lateral(CHANNELS[2], width)
            self.p4_down_channel = _lateral(CHANNELS[1], width)
            self.p3_down_channel = _lateral(CHANNELS[0], width)
        if self.has_second_laterals:
            self.p4_down_channel_2 = _lateral(CHANNELS[1], width)
            self.p5_down_channel_2 = _lateral(CHANNELS[2], width)
        self.p4_w1, self.p3_w1 = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
        self.p4_w2, self.p5_w2 = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))

    def forward(self, maps: Maps) -> Maps:
        """Return three maps of `width` channels."""
        p3, p4, p5 = self._laterals(maps)
        up4 = self.conv4_up(_fused(self.p4_w1, p4, _enlarged(p5, p4)))
        out3 = self.conv3_up(_fused(self.p3_w1, p3, _enlarged(up4, p3)))
        if self.has_second_laterals:
            p4, p5 = self.p4_down_channel_2(maps[1]), self.p5_down_channel_2(maps[2])
        out4 = self.conv4_down(_fused(self.p4_w2, p4, up4, _halved(out3)))
        return out3, out4, self.conv5_down(_fused(self.p5_w2, p5, _halved(out4)))

    def _laterals(self, maps: Maps) -> Maps:
        if not self.is_first:
            return maps
        return self.p3_down_channel(maps[0]), self.p4_down_channel(maps[1]), self.p5_down_channel(maps[2])


def _fused(weights: Tensor, *maps: Tensor) -> Tensor:
    """Return the sum of maps, each times its share of the weights, none of which counts below 0."""
    shares = weights.relu()
    shares = shares / (shares.sum() + FUSION_EPSILON)
    return sum((share * each for share, each in zip(shares[1:], maps[1:], strict=False)), shares[0] * maps[0])
