"""Pairwise matching: every pair of the score matrix is a binary decision, or a contest within its row."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from losses.pairs import Pairs, find_scored_pairs, hardest_gap


def _cross_entropy(scores: Tensor, pairs: Pairs) -> Tensor:
    return F.binary_cross_entropy_with_logits(scores, pairs.same.to(scores.dtype), reduction="none")


def pairwise_matching_loss(
    scores: Tensor,
    labels: Tensor,
    gallery_labels: Tensor | None = None,
    is_self: Tensor | None = None,
    include_self: bool = True,
) -> Tensor:
    """Return the binary cross entropy of the scores with "same identity", summed over each row: the published form.

    It starts near ln 2 * G and grows with the gallery; PAIRWISE_REDUCTIONS has forms that do not.

    Args:
        scores: [B, G] floating, larger = more similar.
        labels: [B] int64, of the rows.
        gallery_labels: [G] int64, of the columns; None: the batch against itself.
        is_self: [B, G] bool, where row and column are the same image; None: the diagonal of a batch against itself,
            nowhere when gallery_labels are given.
        include_self: whether an image's pair with itself counts, as it does in the published loss.
    Returns:
        [B] float32 (float64 for float64 scores), >= 0.
    Raises:
        ValueError: if shapes disagree.
        TypeError: if labels are not int64 or is_self is not bool.
    Reference: Liao, Shao, "Interpretable and Generalizable Person Re-Identification with Query-Adaptive Convolution and
        Temporal Lifting", ECCV 2020, arXiv:1904.10424.
    """
    scores, pairs = find_scored_pairs(scores, labels, gallery_labels, is_self)
    losses = _cross_entropy(scores, pairs)
    if not include_self:
        losses = losses.masked_fill(pairs.is_self, 0)
    return losses.sum(dim=1)


def mean_pairwise_loss(
    scores: Tensor, labels: Tensor, gallery_labels: Tensor | None = None, is_self: Tensor | None = None
) -> Tensor:
    """Return the published loss divided by the gallery's size, [B]: the mean over the row, itself included.

    Arguments and errors as `pairwise_matching_loss`.
    """
    return pairwise_matching_loss(scores, labels, gallery_labels, is_self) / max(1, scores.shape[1])


def balanced_pairwise_loss(
    scores: Tensor, labels: Tensor, gallery_labels: Tensor | None = None, is_self: Tensor | None = None
) -> Tensor:
    """Return half the mean cross entropy of the row's positives plus half that of its negatives, itself left out, [B].

    A row without positives (or negatives) has that half 0. Arguments and errors as `pairwise_matching_loss`.
    """
    scores, pairs = find_scored_pairs(scores, labels, gallery_labels, is_self)
    losses = _cross_entropy(scores, pairs)
    halves = [
        losses.masked_fill(~chosen, 0).sum(dim=1) / chosen.sum(dim=1).clamp_min(1)
        for chosen in (pairs.positive, pairs.negative)
    ]
    return (halves[0] + halves[1]) / 2


def ranking_pairwise_loss(
    scores: Tensor, labels: Tensor, gallery_labels: Tensor | None = None, is_self: Tensor | None = None
) -> Tensor:
    """Return the mean over the row's positives of softplus(logsumexp(negatives of the row) - positive), [B].

    Each positive competes with all negatives of its row, never with other positives; itself is left out. It hardly
    grows with the gallery and does not see a constant added to all scores. A row without positives or without
    negatives gives 0 and is not to be averaged: see `valid_rows`. Arguments and errors as `pairwise_matching_loss`.
    """
    scores, pairs = find_scored_pairs(scores, labels, gallery_labels, is_self)
    negatives = scores.masked_fill(~pairs.negative, -torch.inf).logsumexp(dim=1, keepdim=True)
    losses = F.softplus(negatives - scores).masked_fill(~pairs.positive, 0)
    return losses.sum(dim=1) / pairs.positive.sum(dim=1).clamp_min(1)


def pairwise_accuracy(
    scores: Tensor, labels: Tensor, gallery_labels: Tensor | None = None, is_self: Tensor | None = None
) -> Tensor:
    """Return 1 where a row's smallest positive score (itself left out) is above its largest negative one, else 0, [B].

    A row without positives or without negatives gives 0 and is not to be averaged: see `valid_rows`. Arguments and
    errors as `pairwise_matching_loss`.
    """
    scores, pairs = find_scored_pairs(scores, labels, gallery_labels, is_self)
    gap = hardest_gap(scores, pairs)
    return ((gap > 0) & gap.isfinite()).to(scores.dtype)


# (scores, labels, gallery_labels=None, is_self=None) -> [B]
PAIRWISE_REDUCTIONS: dict[str, Callable[..., Tensor]] = {
    "ranking": ranking_pairwise_loss,
    "balanced": balanced_pairwise_loss,
    "mean": mean_pairwise_loss,
    "row_sum": pairwise_matching_loss,
}
