"""Losses over scores and visibility maps, one value a row that the caller averages, and over pairs of embeddings."""

from collections.abc import Callable

from torch import Tensor

from losses.contrastive import left_out, margin_nce
from losses.distillation import classifier_distillation, relation_distillation
from losses.paired_views import info_nce, paired_cosine, supervised_contrastive
from losses.recognition import (
    balanced_pairwise_loss,
    mean_over_valid,
    mean_pairwise_loss,
    occlusion_cross_entropy,
    occlusion_dice,
    occlusion_loss,
    pairwise_accuracy,
    pairwise_matching_loss,
    ranking_pairwise_loss,
    triplet_accuracy,
    triplet_loss,
    valid_rows,
)
from options import names

# (scores [B, G], labels [B], gallery labels or None, is_self or None) -> [B]
PAIRWISE_REDUCTIONS: dict[str, Callable[..., Tensor]] = {
    name: names.registered(place) for name, place in names.PAIRWISE_REDUCTIONS.items()
}
# (visibility [B, 1, h, w], target [B, 1, h, w]) -> scalar
OCCLUSION_LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    name: names.registered(place) for name, place in names.OCCLUSION_LOSSES.items()
}

__all__ = [
    "OCCLUSION_LOSSES",
    "PAIRWISE_REDUCTIONS",
    "balanced_pairwise_loss",
    "classifier_distillation",
    "info_nce",
    "left_out",
    "margin_nce",
    "mean_over_valid",
    "mean_pairwise_loss",
    "occlusion_cross_entropy",
    "occlusion_dice",
    "occlusion_loss",
    "paired_cosine",
    "pairwise_accuracy",
    "pairwise_matching_loss",
    "ranking_pairwise_loss",
    "relation_distillation",
    "supervised_contrastive",
    "triplet_accuracy",
    "triplet_loss",
    "valid_rows",
]
