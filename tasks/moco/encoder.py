"""What is trained: a backbone with a projector on top, which is thrown away afterwards."""

from __future__ import annotations

from torch import Tensor, nn

import nets

BN_HIDDEN = 2048  # of the projector with batch norm


def build_projector(kind: str, embedding_size: int, dim: int) -> nn.Sequential:
    """Return the projector called `kind`, [B, embedding_size] -> [B, dim].

    mlp: Linear, ReLU, Linear, as wide as the embedding (Chen et al., "Improved Baselines with Momentum Contrastive
    Learning", arXiv:2003.04297). mlp_bn: a hidden layer of 2048 with batch norm instead of its bias.

    Raises:
        ValueError: if the name is unknown.
    """
    if kind == "mlp":
        return nn.Sequential(
            nn.Linear(embedding_size, embedding_size), nn.ReLU(inplace=True), nn.Linear(embedding_size, dim)
        )
    if kind == "mlp_bn":
        hidden = nn.Linear(embedding_size, BN_HIDDEN, bias=False)
        return nn.Sequential(hidden, nn.BatchNorm1d(BN_HIDDEN), nn.ReLU(inplace=True), nn.Linear(BN_HIDDEN, dim))
    raise ValueError(f"build_projector: unknown projector {kind!r}; choose mlp or mlp_bn")


class Encoder(nn.Module):
    """Backbone and projector. What is kept in the end, and compared, is the backbone's embedding.

    Args:
        backbone: as `nets.build_model` returns it.
        projector: [B, embedding_size] -> [B, dim].
    """

    def __init__(self, backbone: nets.Backbone, projector: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.projector = projector

    def forward(self, images: Tensor) -> Tensor:
        """Return the projections [B, dim], of any length, of images [B, 3, 112, 112] in [-1, 1], RGB."""
        features = self.backbone(images)
        projected: Tensor = self.projector(features.embedding * features.norm)  # as long as the backbone made it
        return projected
