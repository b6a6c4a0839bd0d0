"""InfoNCE with an additive margin against a queue of negatives, and which of them are left out."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from ops import at_least_float32


def margin_nce(
    positive: Tensor,
    negatives: Tensor,
    left_out: Tensor | None = None,
    margin: float = 0.1,
    temperature: float = 0.07,
) -> Tensor:
    """Return the cross entropy of each query's positive against its negatives, with a margin on the positive.

    loss = log(1 + e^{margin / temperature} * sum_j e^{(negative_j - positive) / temperature}) over the negatives that
    are not left out. A query without negatives has loss 0 and gradient 0. margin = 0 is InfoNCE. The margin is not
    clamped; a negative one makes the task easier.

    Args:
        positive: [B] floating, cosines of queries and their keys.
        negatives: [B, K] floating, cosines of queries and the slots of the queue.
        left_out: [B, K] bool, True = no negative of this query; None: all are negatives.
        margin: finite.
        temperature: > 0.
    Returns:
        [B] at least float32 under any autocast, >= 0.
    Raises:
        ValueError: if shapes disagree or the temperature is not above 0. TypeError: if left_out is not bool.
    Reference: He et al., "Momentum Contrast for Unsupervised Visual Representation Learning", arXiv:1911.05722, Eq. 1;
        the margin as in Boutros et al., "Unsupervised Face Recognition using Unlabeled Synthetic Data" (USynthFace),
        arXiv:2211.07371, Eq. 2.
    """
    if positive.ndim != 1 or negatives.ndim != 2 or len(positive) != len(negatives):
        raise ValueError(
            f"margin_nce: expected positive [B] and negatives [B, K], got {[*positive.shape]} and {[*negatives.shape]}"
        )
    if not temperature > 0:
        raise ValueError(f"margin_nce: temperature must be above 0, got {temperature}")
    others = at_least_float32(negatives)
    if left_out is not None:
        _check_mask(left_out, negatives.shape, "margin_nce: left_out")
        others = others.masked_fill(left_out, -torch.inf)
    logits = torch.cat([at_least_float32(positive)[:, None] - margin, others], dim=1) / temperature
    target = torch.zeros(len(logits), dtype=torch.long, device=logits.device)
    return functional.cross_entropy(logits, target, reduction="none")


def left_out(  # noqa: PLR0913  (what is known of both sides)
    similarity: Tensor,
    query_clusters: Tensor,
    queue_clusters: Tensor,
    query_images: Tensor,
    positive_images: Tensor,
    queue_images: Tensor,
    valid: Tensor,
    top_k: int = 0,
) -> Tensor:
    """Return which slots of the queue are no negatives of which query.

    Left out are slots of the query's cluster, slots that hold the query's or the positive's own image, slots that were
    never written, and of what is left the top_k most similar ones; of equal ones the lower slot goes first. Negative
    ids stand for none and are equal to nothing. Cluster ids must be of one clustering: who clusters anew relabels the
    queue through its image ids.

    Args:
        similarity: [B, K] floating, cosines; only their order matters.
        query_clusters: [B] int64, -1 = none.
        queue_clusters: [K] int64, -1 = none.
        query_images: [B] int64.
        positive_images: [B] int64; another image than the query's where the second view is a partner.
        queue_images: [K] int64.
        valid: [K] bool, whether a slot was ever written.
        top_k: >= 0; more than are left means all of them.
    Returns:
        [B, K] bool, True = left out.
    Raises:
        ValueError: if shapes disagree or top_k is negative. TypeError: if valid is not bool.
    """
    if similarity.ndim != 2:
        raise ValueError(f"left_out: similarity must be [B, K], got {[*similarity.shape]}")
    rows, slots = similarity.shape
    for name, ids, size in (
        ("query_clusters", query_clusters, rows), ("query_images", query_images, rows),
        ("positive_images", positive_images, rows), ("queue_clusters", queue_clusters, slots),
        ("queue_images", queue_images, slots),
    ):  # fmt: skip
        if ids.shape != (size,):
            raise ValueError(f"left_out: {name} must be [{size}] to match {rows} x {slots}, got {[*ids.shape]}")
    _check_mask(valid, (slots,), "left_out: valid")
    if top_k < 0:
        raise ValueError(f"left_out: top_k must be 0 or more, got {top_k}")
    out = _same(query_clusters, queue_clusters) | _same(query_images, queue_images)
    out |= _same(positive_images, queue_images) | ~valid
    return out | _most_similar(similarity.detach().masked_fill(out, -torch.inf), ~out, top_k) if top_k else out


def _same(queries: Tensor, queue: Tensor) -> Tensor:
    return (queries[:, None] == queue) & (queries >= 0)[:, None]


def _most_similar(similarity: Tensor, left: Tensor, top_k: int) -> Tensor:
    """Return the top_k largest among those that are left, bool [B, K]; of equal ones the lower slots."""
    count = min(top_k, similarity.shape[1])
    least = similarity.topk(count, dim=1).values[:, -1:]  # says which are equal, not which of these come first
    above, equal = similarity > least, (similarity == least) & left
    return above | (equal & (equal.cumsum(dim=1) <= count - above.sum(dim=1, keepdim=True)))


def _check_mask(mask: Tensor, shape: tuple[int, ...], place: str) -> None:
    if mask.dtype != torch.bool:
        raise TypeError(f"{place} must be bool, got {mask.dtype}")
    if mask.shape != shape:
        raise ValueError(f"{place} must be {[*shape]}, got {[*mask.shape]}")
