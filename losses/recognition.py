"""The losses of a recognizer: over scores, each pair a decision or a contest in its row, and over visibility."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ops import at_least_float32

_LEAST = 1e-6  # of a probability whose logarithm is taken: a sigmoid of float32 reaches 0 and 1


class Pairs(NamedTuple):
    """Boolean masks [B, G] of a score matrix; `positive` leaves out `is_self`, `negative` cannot contain it."""

    same: Tensor
    positive: Tensor
    negative: Tensor
    is_self: Tensor


def find_pairs(labels: Tensor, gallery_labels: Tensor | None = None, is_self: Tensor | None = None) -> Pairs:
    """Return the masks of a score matrix with the given labels.

    Args:
        labels: [B] int64, of the rows.
        gallery_labels: [G] int64, of the columns; None: the batch against itself, columns are the rows.
        is_self: [B, G] bool, where row and column are the same image. None: the diagonal of a batch against itself, and
            nowhere when gallery_labels are given. A gallery gathered over ranks passes its own.
    Raises:
        ValueError: if shapes disagree.
        TypeError: if labels are not int64 or is_self is not bool.
    """
    columns = labels if gallery_labels is None else gallery_labels
    for name, value in (("labels", labels), ("gallery_labels", columns)):
        if value.ndim != 1:
            raise ValueError(f"losses: {name} must be 1-d, one label per image, got {list(value.shape)}; flatten them.")
        if value.dtype != torch.int64:
            raise TypeError(f"losses: {name} must be int64, got {value.dtype}; convert them with .long().")
    same = labels[:, None] == columns[None, :]
    if is_self is None:
        is_self = torch.zeros_like(same)
        if gallery_labels is None:
            is_self.fill_diagonal_(True)
    if is_self.dtype != torch.bool:
        raise TypeError(f"losses: is_self must be bool, got {is_self.dtype}; pass a mask.")
    if is_self.shape != same.shape:
        raise ValueError(
            f"losses: is_self must be {list(same.shape)} to match the labels, got {list(is_self.shape)}; "
            "mark, for every row and column, whether they are the same image."
        )
    return Pairs(same, same & ~is_self, ~same & ~is_self, is_self)


def find_scored_pairs(
    scores: Tensor, labels: Tensor, gallery_labels: Tensor | None, is_self: Tensor | None
) -> tuple[Tensor, Pairs]:
    """Return the scores in at least float32, and their pairs.

    Raises:
        ValueError: if scores are not [B, G] for the labels, and as `find_pairs`.
    """
    pairs = find_pairs(labels, gallery_labels, is_self)
    if scores.shape != pairs.same.shape:
        raise ValueError(
            f"losses: scores must be {list(pairs.same.shape)} to match the labels, got {list(scores.shape)}; "
            "pass gallery_labels when the gallery is not the batch itself."
        )
    return at_least_float32(scores), pairs


def valid_rows(labels: Tensor, gallery_labels: Tensor | None = None, is_self: Tensor | None = None) -> Tensor:
    """Return which rows [B] have at least one positive other than themselves and at least one negative.

    Arguments and errors as `find_pairs`.
    """
    pairs = find_pairs(labels, gallery_labels, is_self)
    return pairs.positive.any(dim=1) & pairs.negative.any(dim=1)


def mean_over_valid(losses: Tensor, valid: Tensor, num_valid: Tensor | None = None) -> Tensor:
    """Return the mean of `losses` [B] over the rows marked in `valid` [B] bool; 0, with gradient 0, without any.

    Args:
        losses: [B] floating.
        valid: [B] bool.
        num_valid: scalar > 0, what the sum is divided by; None: as many rows as are valid. Ranks that have parts of one
            batch pass the mean number of a rank, so that the mean of their losses is that over all valid rows.
    """
    count = valid.sum().clamp_min(1) if num_valid is None else num_valid.to(losses.dtype)
    return losses.masked_fill(~valid, 0).sum() / count


def hardest_gap(scores: Tensor, pairs: Pairs) -> Tensor:
    """Return each row's smallest positive score minus its largest negative one, [B]; +inf for a row without either.

    Of scores that tie, the gradient goes to the first.
    """
    positive = scores.masked_fill(~pairs.positive, torch.inf).min(dim=1).values
    negative = scores.masked_fill(~pairs.negative, -torch.inf).max(dim=1).values
    return positive - negative


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


def occlusion_loss(visibility: Tensor, target: Tensor) -> Tensor:
    """Return the mean squared error of predicted visibility.

    Args:
        visibility: [B, 1, h, w] floating in [0, 1], 1 = visible.
        target: [B, 1, h, w] floating in [0, 1], the area average of the true masks; constant.
    Returns:
        Scalar float32 under any autocast (float64 where either is); 0, with gradient 0, for an empty batch.
    Raises:
        ValueError: if the shapes are not equal or not [B, 1, h, w].
        TypeError: if either is not floating.
    """
    predicted, true = _checked(visibility, target)
    return (predicted - true).square().sum() / max(1, predicted.numel())


def occlusion_cross_entropy(visibility: Tensor, target: Tensor) -> Tensor:
    """Return the mean over cells of the binary cross entropy; arguments, result and errors as `occlusion_loss`.

    A cell that is called wrong with confidence still has a gradient, where that of a squared error vanishes. A cell
    that is half hidden costs ln 2 at best.
    """
    predicted, true = _checked(visibility, target)
    predicted = predicted.clamp(_LEAST, 1 - _LEAST)
    return -(true * predicted.log() + (1 - true) * (1 - predicted).log()).sum() / max(1, predicted.numel())


def occlusion_dice(visibility: Tensor, target: Tensor) -> Tensor:
    """Return the mean over images of 1 - Dice of the hidden share; arguments, result and errors as `occlusion_loss`.

    One cell more on both sides of the ratio: an image of which nothing is hidden, and nothing is called so, costs 0.
    Reference: Milletari, Navab, Ahmadi, "V-Net", 3DV 2016, arXiv:1606.04797, Sec. 3.
    """
    hidden, truly = (1 - part.flatten(1) for part in _checked(visibility, target))
    ratio = (2 * (hidden * truly).sum(1) + 1) / (hidden.square().sum(1) + truly.square().sum(1) + 1)
    return (1 - ratio).sum() / max(1, len(ratio))


def _checked(visibility: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    if visibility.shape != target.shape or visibility.ndim != 4 or visibility.shape[1] != 1:
        raise ValueError(
            f"occlusion_loss: visibility and target must both be [B, 1, h, w], got {list(visibility.shape)} and "
            f"{list(target.shape)}; average the masks over the cells of the map first."
        )
    if not (visibility.is_floating_point() and target.is_floating_point()):
        raise TypeError(
            f"occlusion_loss: visibility and target must be floating, got {visibility.dtype} and {target.dtype}; "
            "average the masks over the cells of the map first."
        )
    return at_least_float32(visibility), at_least_float32(target.detach())
