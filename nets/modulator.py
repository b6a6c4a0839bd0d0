"""A modulator of the feature map: what is known of an image scales and shifts its channels."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from ops import at_least_float32

from .backbone import INPUT_SIZE


class Modulator(nn.Module):
    """Feature-wise linear modulation, (1 + scale(z)) f + shift(z), and a head that predicts z from f.

    The last layer of the small network that gives scale and shift begins with 0, so that the map stays as it is until
    something is learned. The head reads the map before it is modulated, where z itself is not to be found: a backbone
    that is trained by its loss learns to tell the covariates, and one that is frozen shows whether it does.

    Args:
        num_covariates: k, length of z.
        channels: C of the feature map.
        hidden: width of the network from z to scale and shift.
    Reference: Perez et al., "FiLM: Visual Reasoning with a General Conditioning Layer", AAAI 2018, arXiv:1709.07871.
    """

    def __init__(self, num_covariates: int, channels: int, hidden: int = 64) -> None:
        super().__init__()
        self.num_covariates = num_covariates
        last = nn.Linear(hidden, 2 * channels)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.layers = nn.Sequential(nn.Linear(num_covariates, hidden), nn.GELU(), last)
        self.predictor = nn.Linear(channels, num_covariates)

    def forward(self, feature_map: Tensor, covariates: Tensor) -> Tensor:
        """Return the modulated map [B, C, h, w], in the dtype of the map.

        Args:
            feature_map: [B, C, h, w] floating.
            covariates: z, [B, k] floating; of about unit size.
        Raises:
            ValueError: if the shapes do not belong together.
        """
        expected = (len(feature_map), self.num_covariates)
        if covariates.shape != expected:
            raise ValueError(
                f"Modulator.forward: covariates must be {[*expected]} to match the map, got {[*covariates.shape]}"
            )
        scale, shift = self.layers(covariates)[:, :, None, None].to(feature_map.dtype).chunk(2, dim=1)
        return (1 + scale) * feature_map + shift

    def predict(self, feature_map: Tensor) -> Tensor:
        """Return what the covariates seem to be, [B, k] at least float32, of a map [B, C, h, w] before modulation."""
        return at_least_float32(self.predictor(feature_map.mean((2, 3))))


def join_covariates(
    quality: Tensor, visible: Tensor, resolution: Tensor, dataset_id: Tensor, num_datasets: int
) -> Tensor:
    """Return the covariates of images for a `Modulator`, [B, 3 + num_datasets] float32, each in [0, 1].

    Args:
        quality: [B] in [0, 1].
        visible: [B], visible share of the face, in [0, 1].
        resolution: [B] > 0, side in pixels of what was photographed; it enters as log2(side) / log2(112), at most 1.
        dataset_id: [B] int64 in [0, num_datasets), which enters one-hot.
        num_datasets: how many there are.
    """
    detail = (resolution.float().log2() / math.log2(INPUT_SIZE)).clamp(0, 1)
    one_hot = functional.one_hot(dataset_id, num_datasets).float()
    return torch.cat([torch.stack([quality.float(), visible.float(), detail], 1), one_hot], 1)
