"""A modulator of the feature map: what an image seems to be scales and shifts its channels."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from ops import at_least_float32

from .backbone import INPUT_SIZE

COVARIATES = ("quality", "visible", "resolution", "dataset")  # in this order


class Modulator(nn.Module):
    """Feature-wise linear modulation, (1 + scale(z)) f + shift(z), by what a head finds of z in f itself.

    Who describes a face knows neither what it was photographed with nor what hides it. So the covariates z are those
    that a linear head predicts of the mean of the map: in training, where their loss teaches the head, and anywhere
    else. No other loss reaches the head through z, which would then mean something else. The last layer of the small
    network that gives scale and shift begins with 0, so that the map stays as it is until something is learned.

    Args:
        widths: columns of z by the name of each covariate, in their order.
        channels: C of the feature map.
        hidden: width of the network from z to scale and shift.
    Reference: Perez et al., "FiLM: Visual Reasoning with a General Conditioning Layer", AAAI 2018, arXiv:1709.07871.
    """

    def __init__(self, widths: Mapping[str, int], channels: int, hidden: int = 64) -> None:
        super().__init__()
        self.widths = dict(widths)
        last = nn.Linear(hidden, 2 * channels)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.layers = nn.Sequential(nn.Linear(sum(widths.values()), hidden), nn.GELU(), last)
        # By name, so that weights of other covariates do not fit by chance.
        self.predictor = nn.ModuleDict({name: nn.Linear(channels, width) for name, width in widths.items()})

    def forward(self, feature_map: Tensor) -> Tensor:
        """Return the modulated map [B, C, h, w], in the dtype of the map, of a raw one."""
        z = self.predict(feature_map).detach().clamp(0, 1)
        scale, shift = self.layers(z)[:, :, None, None].to(feature_map.dtype).chunk(2, dim=1)
        return (1 + scale) * feature_map + shift

    def predict(self, feature_map: Tensor) -> Tensor:
        """Return what the covariates seem to be, [B, k] at least float32, of a raw map [B, C, h, w]."""
        means = feature_map.mean((2, 3))
        return torch.cat([at_least_float32(head(means)) for head in self.predictor.values()], 1)


def join_covariates(known: Mapping[str, Tensor], num_datasets: int = 1) -> Tensor:
    """Return covariates of images as a `Modulator` predicts them, [B, k] float32, each in [0, 1].

    Args:
        known: by name: "quality" [B] in [0, 1]; "visible" [B], visible share of the face, in [0, 1]; "resolution" [B]
            > 0, side in pixels of what was photographed, which enters as log2(side) / log2(112), at most 1; "dataset"
            [B] int64 in [0, num_datasets), which enters one-hot. They are joined in this order.
        num_datasets: how many there are.
    """
    columns = []
    for name in COVARIATES:
        if name not in known:
            continue
        values = known[name]
        if name == "resolution":
            values = (values.float().log2() / math.log2(INPUT_SIZE)).clamp(0, 1)
        columns.append(functional.one_hot(values, num_datasets) if name == "dataset" else values[:, None])
    return torch.cat([column.float() for column in columns], 1)
