"""What a step of recognition measures beside its losses."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from nets import Features
from ops import at_least_float32


def feature_statistics(features: Features, weighted_terms: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return each loss term's gradient norm at the feature map, and how long the features are."""
    gradients = {
        f"map_grad/{name}": torch.autograd.grad(term, features.feature_map, retain_graph=True, allow_unused=True)[0]
        for name, term in weighted_terms.items()
        if features.feature_map.requires_grad and term.requires_grad  # not where --freeze cuts between them
    }
    values = {name: gradient.norm() for name, gradient in gradients.items() if gradient is not None}
    values["embedding_norm"] = features.norm.mean()
    values["map_norm"] = at_least_float32(features.feature_map).norm(dim=1).mean()
    return values
