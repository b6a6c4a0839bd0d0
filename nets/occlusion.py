"""The occlusion heads: how much of each cell of a backbone's map shows the face."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from ops import at_least_float32

from .backbone import Features


class OcclusionHead(nn.Module):
    """3x3 convolution without bias, batch norm, ReLU, 1x1 convolution, sigmoid; Kaiming initialization.

    Args:
        in_channels: channels of the backbone's raw feature map.
        hidden_channels: channels between the two convolutions.
    """

    def __init__(self, in_channels: int, hidden_channels: int = 128) -> None:
        super().__init__()
        hidden = nn.Conv2d(in_channels, hidden_channels, 3, padding=1, bias=False)
        output = nn.Conv2d(hidden_channels, 1, 1)
        nn.init.kaiming_normal_(hidden.weight, nonlinearity="relu")
        nn.init.kaiming_normal_(output.weight, nonlinearity="sigmoid")
        if output.bias is not None:
            nn.init.zeros_(output.bias)
        self.layers = nn.Sequential(hidden, nn.BatchNorm2d(hidden_channels), nn.ReLU(inplace=True), output)

    def forward(self, feature_map: Tensor) -> Tensor:
        """Return the visibility [B, 1, h, w] in [0, 1], 1 = visible, of a raw feature map [B, in_channels, h, w].

        Float32 under any autocast, float64 for a float64 head.
        """
        logits: Tensor = self.layers(feature_map)
        return at_least_float32(logits).sigmoid()


class FineOcclusionHead(nn.Module):
    """Reads the detail map beside the feature map and averages what it finds on the finer cells.

    What hides a face is told by texture and edges, which the last blocks have given up for identity. A 3x3 convolution
    of each map, the coarse one repeated to the finer cells, batch norm of their sum, ReLU; then a second 3x3
    convolution, batch norm, ReLU, 1x1 convolution and sigmoid on the finer cells.

    Args:
        in_channels: channels of the backbone's raw feature map.
        detail_channels: channels of its detail map.
        hidden_channels: channels between the convolutions.
    """

    def __init__(self, in_channels: int, detail_channels: int, hidden_channels: int = 48) -> None:
        super().__init__()
        self.coarse = nn.Conv2d(in_channels, hidden_channels, 3, padding=1, bias=False)
        self.fine = nn.Conv2d(detail_channels, hidden_channels, 3, padding=1, bias=False)
        self.layers = nn.Sequential(
            nn.BatchNorm2d(hidden_channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(hidden_channels, hidden_channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(hidden_channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(hidden_channels, 1, 1),
        )
        _begin_in_doubt(self)

    def forward(self, feature_map: Tensor, detail: Tensor) -> Tensor:
        """Return the visibility [B, 1, h, w] in [0, 1], 1 = visible.

        Float32 under any autocast, float64 for a float64 head.

        Args:
            feature_map: [B, in_channels, h, w], raw.
            detail: [B, detail_channels, H, W], of twice the sides or one more.
        """
        coarse = functional.interpolate(self.coarse(feature_map), size=detail.shape[-2:], mode="nearest")
        logits: Tensor = self.layers(coarse + self.fine(detail))
        return pooled(at_least_float32(logits).sigmoid(), feature_map)


class PyramidOcclusionHead(nn.Module):
    """Looks at the pixels itself: down to 56, 28, 14 and 7 cells a side, and up again to 28, each level seen once more.

    What hides a face ends at an edge that runs anywhere through a map's cells. So this head decides on cells of 4 x 4
    pixels, where the backbone has no say: it costs as much beside any of them, and learns as well beside one that is
    frozen. 3x3 convolutions without bias, each with batch norm and ReLU; the way up adds the coarser level, by a 1x1
    convolution, to the finer one.

    Args:
        channels: at 28 x 28 cells; half as many at 56 x 56, twice as many below.
    Reference: Ronneberger, Fischer, Brox, "U-Net", MICCAI 2015, arXiv:1505.04597; Lin et al., "Feature Pyramid Networks
        for Object Detection", CVPR 2017, arXiv:1612.03144.
    """

    def __init__(self, channels: int = 32) -> None:
        super().__init__()
        self.edges = nn.Sequential(*_conv(3, channels // 2, stride=2), *_conv(channels // 2, channels, stride=2))
        self.fine = nn.Sequential(*_conv(channels, channels))
        self.middle = nn.Sequential(*_conv(channels, 2 * channels, stride=2))
        self.coarse = nn.Sequential(*_conv(2 * channels, 2 * channels, stride=2))
        self.to_middle = nn.Conv2d(2 * channels, 2 * channels, 1)
        self.to_fine = nn.Conv2d(2 * channels, channels, 1)
        self.at_middle = nn.Sequential(*_conv(2 * channels, 2 * channels))
        self.at_fine = nn.Sequential(*_conv(channels, channels))
        self.output = nn.Conv2d(channels, 1, 1)
        _begin_in_doubt(self)

    def forward(self, images: Tensor) -> Tensor:
        """Return the visibility [B, 1, 28, 28] in [0, 1], 1 = visible, of images [B, 3, 112, 112] in [-1, 1], RGB.

        A quarter of the images' sides, whatever they are; float32 under any autocast, float64 for a float64 head.
        """
        fine = self.fine(self.edges(images))
        middle = self.middle(fine)
        middle = self.at_middle(middle + _doubled(self.to_middle(self.coarse(middle))))
        logits: Tensor = self.output(self.at_fine(fine + _doubled(self.to_fine(middle))))
        return at_least_float32(logits).sigmoid()


def _conv(in_channels: int, channels: int, stride: int = 1) -> list[nn.Module]:
    """Return the layers of a 3x3 convolution without bias, batch norm and ReLU."""
    convolution = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
    return [convolution, nn.BatchNorm2d(channels), nn.ReLU(inplace=True)]


def _doubled(maps: Tensor) -> Tensor:
    return functional.interpolate(maps, scale_factor=2.0, mode="nearest")


def _begin_in_doubt(head: nn.Module) -> None:
    """Draw the first weights, Kaiming normal by the inputs: by its one output the last layer is too certain."""
    for module in head.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


AnyOcclusionHead = OcclusionHead | FineOcclusionHead | PyramidOcclusionHead


def see(model: nn.Module, occlusion_head: AnyOcclusionHead | None, images: Tensor) -> tuple[Features, Tensor | None]:
    """Return the features of images [B, 3, 112, 112], and the visibility that a head sees in them.

    It is [B, 1, h, w], or as many times finer as the head decides, which its loss is to know; `pooled` makes it [B, 1,
    h, w].
    """
    if isinstance(occlusion_head, FineOcclusionHead):
        features, detail = model(images, detailed=True)
        return features, occlusion_head(features.feature_map, detail)
    features = model(images)
    if occlusion_head is None:
        return features, None
    seen = images if isinstance(occlusion_head, PyramidOcclusionHead) else features.feature_map
    return features, occlusion_head(seen)


def pooled(visibility: Tensor, feature_map: Tensor) -> Tensor:
    """Return visibility as `see` gives it on the cells of a feature map [B, C, h, w]: [B, 1, h, w]."""
    height, width = size = feature_map.shape[-2:]
    return visibility if visibility.shape[-2:] == size else functional.adaptive_avg_pool2d(visibility, (height, width))
