"""Priors, what boxes and points are against them, overlap, and the suppression of what is found twice.

A box is (x1, y1, x2, y2). Priors are (center x, center y, width, height) relative to the image's sides, as all boxes
and points are that a detector learns from; `iou` and `nms` take boxes in any one unit.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

MIN_SIZES = ((16, 32), (64, 128), (256, 512))  # pixels, of a level's square priors
STEPS = (8, 16, 32)  # pixels between the cells of a level
VARIANCES = (0.1, 0.2)  # of centers and points, of sizes

_BLOCK = 1024  # boxes that are compared with each other at once


def priors(
    height: int,
    width: int,
    min_sizes: Sequence[Sequence[float]] = MIN_SIZES,
    steps: Sequence[int] = STEPS,
) -> Tensor:
    """Return the priors of an image, level by level, row by row, cell by cell, by size; none is clipped.

    Args:
        height, width: of the image, in pixels; a level has ceil(side / step) cells along each.
        min_sizes: sides of the square priors in a cell, for each level.
        steps: pixels between two cells, for each level.
    Returns:
        [P, 4] float32, (center x, center y, width, height) over the image's width and height: computed in float64 and
        rounded once. P is 16,800 at 640 x 640.
    Raises:
        ValueError: if a side is below 1, or sizes and steps are of different numbers of levels.
    """
    if height < 1 or width < 1 or len(min_sizes) != len(steps):
        raise ValueError(
            f"priors: sides of at least 1 and as many levels of sizes as steps are needed, got {height} x {width}, "
            f"{len(min_sizes)} and {len(steps)}"
        )
    return torch.cat([_level(height, width, sizes, step) for sizes, step in zip(min_sizes, steps, strict=True)])


def _level(height: int, width: int, sizes: Sequence[float], step: int) -> Tensor:
    def centers(side: int) -> Tensor:
        return (torch.arange(-(-side // step), dtype=torch.float64) + 0.5) * step / side

    y, x = torch.meshgrid(centers(height), centers(width), indexing="ij")
    cells = torch.stack([x, y], dim=-1)[:, :, None].expand(-1, -1, len(sizes), -1)
    side = torch.tensor(sizes, dtype=torch.float64)
    shapes = torch.stack([side / width, side / height], dim=-1).expand_as(cells)
    return torch.cat([cells, shapes], dim=-1).reshape(-1, 4).float()


def corners(priors: Tensor) -> Tensor:
    """Return (x1, y1, x2, y2) of priors [..., 4]."""
    half = priors[..., 2:] / 2
    return torch.cat([priors[..., :2] - half, priors[..., :2] + half], dim=-1)


def encode(boxes: Tensor, priors: Tensor, variances: Sequence[float] = VARIANCES) -> Tensor:
    """Return what a detector should say at priors for boxes to be there.

    (center - prior's center) / (v0 * prior's size), log(size / prior's size) / v1; an empty box gives -inf.

    Args:
        boxes: [..., 4] x1, y1, x2, y2, relative, one for each prior.
        priors: [..., 4]; both broadcast.
        variances: v0 and v1.
    Returns:
        [..., 4].
    Reference: Liu et al., "SSD: Single Shot MultiBox Detector", ECCV 2016, arXiv:1512.02325, Eq. 2.
    """
    center = (boxes[..., :2] + boxes[..., 2:]) / 2
    size = boxes[..., 2:] - boxes[..., :2]
    moved = (center - priors[..., :2]) / (variances[0] * priors[..., 2:])
    return torch.cat([moved, (size / priors[..., 2:]).log() / variances[1]], dim=-1)


def decode(loc: Tensor, priors: Tensor, variances: Sequence[float] = VARIANCES) -> Tensor:
    """Return the boxes [..., P, 4], x1, y1, x2, y2, relative, that loc [..., P, 4] means at priors [P, 4]."""
    center = priors[..., :2] + loc[..., :2] * variances[0] * priors[..., 2:]
    size = priors[..., 2:] * (loc[..., 2:] * variances[1]).exp()
    first = center - size / 2
    return torch.cat([first, first + size], dim=-1)


def encode_landmarks(points: Tensor, priors: Tensor, variances: Sequence[float] = VARIANCES) -> Tensor:
    """Return (point - prior's center) / (v0 * prior's size) of points [..., 2 * n], x1 y1 x2 y2 ..., in that layout."""
    pairs = points.unflatten(-1, (-1, 2))
    return ((pairs - priors[..., None, :2]) / (variances[0] * priors[..., None, 2:])).flatten(-2)


def decode_landmarks(landmarks: Tensor, priors: Tensor, variances: Sequence[float] = VARIANCES) -> Tensor:
    """Return the points [..., P, 2 * n], relative, that landmarks [..., P, 2 * n] mean at priors [P, 4]."""
    pairs = landmarks.unflatten(-1, (-1, 2))
    return (priors[..., None, :2] + pairs * variances[0] * priors[..., None, 2:]).flatten(-2)


def iou(a: Tensor, b: Tensor, inclusive: bool = False) -> Tensor:
    """Return the intersection over union of each box of one set with each of another.

    Args:
        a: [..., N, 4] x1, y1, x2, y2 floating.
        b: [..., M, 4]; leading dimensions broadcast.
        inclusive: whether the last pixel belongs to a box: widths, heights and so areas count one more. For boxes in
            pixels alone.
    Returns:
        [..., N, M] in [0, 1]; 0 for two empty boxes.
    """
    one = float(inclusive)

    def side(axis: int) -> Tensor:
        """Return the length of the intersections along an axis: of contiguous planes, twice as fast as of pairs."""
        last = torch.minimum(a[..., :, None, 2 + axis], b[..., None, :, 2 + axis])
        return (last - torch.maximum(a[..., :, None, axis], b[..., None, :, axis]) + one).clamp(min=0)

    def area(boxes: Tensor) -> Tensor:
        return (boxes[..., 2] - boxes[..., 0] + one) * (boxes[..., 3] - boxes[..., 1] + one)

    shared = side(0) * side(1)
    union = area(a)[..., :, None] + area(b)[..., None, :] - shared
    return torch.where(shared > 0, shared / union, shared)


def nms(boxes: Tensor, scores: Tensor, threshold: float, inclusive: bool = True) -> Tensor:
    """Return the rows that greedy suppression keeps, by falling score.

    The best box stays and every one that overlaps it by more than the threshold goes, and so on with what is left; an
    overlap that equals the threshold suppresses nothing. **Ties:** of equal scores the lower row comes first. (The
    public numpy code reverses an ascending sort, so that the later row comes first.)

    Args:
        boxes: [N, 4] x1, y1, x2, y2 floating, of one image, in pixels.
        scores: [N] floating.
        threshold: of the intersection over union.
        inclusive: see `iou`.
    Returns:
        [K] int64.
    Raises:
        ValueError: if shapes disagree, or a box or score is not finite: a NaN would keep its place and suppress none.
    """
    if boxes.ndim != 2 or boxes.shape[1] != 4 or scores.shape != boxes.shape[:1]:
        raise ValueError(f"nms: boxes [N, 4] and scores [N] are needed, got {[*boxes.shape]} and {[*scores.shape]}")
    if not (boxes.isfinite().all() and scores.isfinite().all()):
        raise ValueError("nms: boxes or scores are not finite; the detector that gave them has diverged")
    order = scores.argsort(descending=True, stable=True)
    kept = order[:0]
    for block in order.split(_BLOCK):
        suppressed = (iou(boxes[kept], boxes[block], inclusive) > threshold).any(dim=0)
        block = block[~suppressed]
        kept = torch.cat([kept, block[_survivors(iou(boxes[block], boxes[block], inclusive) > threshold)]])
    return kept


def _survivors(overlaps: Tensor) -> Tensor:
    """Return which of N boxes, best first, greedy suppression keeps; overlaps [N, N] says who would suppress whom.

    A box stays if no better one that stays overlaps it. Put into this rule again and again, any guess becomes the
    answer: after n rounds at least the first n are right, and in practice all are after a few.
    """
    suppresses = overlaps.triu(diagonal=1).float()
    survives = torch.ones(len(overlaps), dtype=torch.bool, device=overlaps.device)
    while True:
        before, survives = survives, survives.float() @ suppresses == 0
        if bool((before == survives).all()):
            return survives
