"""Hard triplets: the row's least similar positive against its most similar negative."""

import torch.nn.functional as F
from torch import Tensor

from losses.pairs import find_scored_pairs, hardest_gap


def triplet_loss(
    scores: Tensor,
    labels: Tensor,
    margin: float,
    gallery_labels: Tensor | None = None,
    is_self: Tensor | None = None,
) -> Tensor:
    """Return max(0, margin - (smallest positive - largest negative)) of each row, itself left out.

    Args:
        scores: [B, G] floating, larger = more similar.
        labels: [B] int64, of the rows.
        margin: >= 0, in units of the scores.
        gallery_labels: [G] int64, of the columns; None: the batch against itself.
        is_self: [B, G] bool, where row and column are the same image; None: the diagonal of a batch against itself,
            nowhere when gallery_labels are given.
    Returns:
        [B] float32 (float64 for float64 scores), >= 0. A row without positives or without negatives gives 0 and is not
        to be averaged: `mean_over_valid(triplet_loss(...), valid_rows(...))`.
    Raises:
        ValueError: if shapes disagree.
        TypeError: if labels are not int64 or is_self is not bool.
    Reference: Hermans, Beyer, Leibe, "In Defense of the Triplet Loss for Person Re-Identification", arXiv:1703.07737.
    """
    scores, pairs = find_scored_pairs(scores, labels, gallery_labels, is_self)
    return F.relu(margin - hardest_gap(scores, pairs))


def triplet_accuracy(
    scores: Tensor, labels: Tensor, gallery_labels: Tensor | None = None, is_self: Tensor | None = None
) -> Tensor:
    """Return 1 where a row's smallest positive score reaches its largest negative one (a tie counts), else 0, [B].

    A row without positives or without negatives gives 0 and is not to be averaged: see `valid_rows`. Arguments and
    errors as `triplet_loss`.
    """
    scores, pairs = find_scored_pairs(scores, labels, gallery_labels, is_self)
    gap = hardest_gap(scores, pairs)
    return ((gap >= 0) & gap.isfinite()).to(scores.dtype)
