"""Losses over scores and visibility maps, one value a row that the caller averages; of pairs; of detectors."""

from collections.abc import Callable

from torch import Tensor

from losses.contrastive import left_out, margin_nce
from losses.distillation import (
    attention_transfer,
    classifier_distillation,
    detector_distillation,
    relation_distillation,
)
from losses.multibox import Match, MultiBoxLosses, match_priors, multibox_loss
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
    "Match",
    "MultiBoxLosses",
    "attention_transfer",
    "balanced_pairwise_loss",
    "classifier_distillation",
    "detector_distillation",
    "info_nce",
    "left_out",
    "margin_nce",
    "match_priors",
    "mean_over_valid",
    "mean_pairwise_loss",
    "multibox_loss",
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
