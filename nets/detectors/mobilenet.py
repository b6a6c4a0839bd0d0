"""MobileNetV1 at a quarter of its width, whose three last maps the detectors read, and what it is made of."""

from __future__ import annotations

from torch import Tensor, nn

STRIDES = (8, 16, 32)  # of the three maps, in pixels of the image
CHANNELS = (64, 128, 256)
SLOPE = 0.1  # of the leaky ReLU


def convolution(in_channels: int, channels: int, kernel: int = 3, stride: int = 1) -> list[nn.Module]:
    """Return a convolution without bias that keeps the size at stride 1, and its batch norm."""
    return [
        nn.Conv2d(in_channels, channels, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(channels),
    ]


def depthwise(in_channels: int, channels: int, stride: int = 1) -> list[nn.Module]:
    """Return a 3x3 convolution of each channel, batch norm, leaky ReLU, and a 1x1 convolution with its batch norm."""
    return [
        nn.Conv2d(in_channels, in_channels, 3, stride, 1, groups=in_channels, bias=False),
        nn.BatchNorm2d(in_channels),
        nn.LeakyReLU(SLOPE, inplace=True),
        *convolution(in_channels, channels, kernel=1),
    ]


def _block(in_channels: int, channels: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(*depthwise(in_channels, channels, stride), nn.LeakyReLU(SLOPE, inplace=True))


class MobileNet(nn.Module):
    """MobileNetV1 x 0.25 without its classifier, 213,072 parameters; the keys are those of RetinaFace's public files.

    Reference: Howard et al., "MobileNets: Efficient Convolutional Neural Networks for Mobile Vision Applications",
        arXiv:1704.04861, Table 1, at width multiplier 0.25.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stage1 = nn.Sequential(
            nn.Sequential(*convolution(3, 8, stride=2), nn.LeakyReLU(SLOPE, inplace=True)),
            _block(8, 16),
            _block(16, 32, stride=2),
            _block(32, 32),
            _block(32, 64, stride=2),
            _block(64, 64),
        )
        self.stage2 = nn.Sequential(_block(64, 128, stride=2), *(_block(128, 128) for _ in range(5)))
        self.stage3 = nn.Sequential(_block(128, 256, stride=2), _block(256, 256))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return maps of 64, 128 and 256 channels at strides 8, 16 and 32 (sides rounded up) of images [B, 3, H, W]."""
        fine = self.stage1(images)
        middle = self.stage2(fine)
        return fine, middle, self.stage3(middle)
