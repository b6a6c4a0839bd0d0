"""Which pairs of a score matrix are positive, negative, or an image with itself."""

from typing import NamedTuple

import torch
from torch import Tensor

from ops import at_least_float32


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
