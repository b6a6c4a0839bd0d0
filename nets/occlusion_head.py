"""Predicts from a feature map how much of every cell is visible."""

from __future__ import annotations

from torch import Tensor, nn

from ops import at_least_float32


class OcclusionHead(nn.Module):
    """3x3 convolution without bias, batch norm, ReLU, 1x1 convolution, sigmoid; Kaiming initialisation.

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
