"""Losses over scores and visibility maps; they return one value per row, weighting and averaging is the caller's."""

from losses.occlusion import occlusion_loss
from losses.pairs import mean_over_valid, valid_rows
from losses.pairwise import (
    PAIRWISE_REDUCTIONS,
    balanced_pairwise_loss,
    mean_pairwise_loss,
    pairwise_accuracy,
    pairwise_matching_loss,
    ranking_pairwise_loss,
)
from losses.triplet import triplet_accuracy, triplet_loss

__all__ = [
    "PAIRWISE_REDUCTIONS",
    "balanced_pairwise_loss",
    "mean_over_valid",
    "mean_pairwise_loss",
    "occlusion_loss",
    "pairwise_accuracy",
    "pairwise_matching_loss",
    "ranking_pairwise_loss",
    "triplet_accuracy",
    "triplet_loss",
    "valid_rows",
]
