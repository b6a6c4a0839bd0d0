"""What a detector of faces learns from: MultiBox, over priors that are matched with the faces of each image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ops import at_least_float32, boxes

OVERLAP = 0.35  # from which on a prior is a face's
LEAST_OVERLAP = 0.2  # from which on a face's best prior is its, whatever OVERLAP says
NEGATIVES = 7  # background that is learned for each positive of an image
TARGET_SIZE = 15  # numbers for a face: box 4, landmarks 10, label 1

Predictions = tuple[Tensor, Tensor, Tensor]


class MultiBoxLosses(NamedTuple):
    """Three scalars, each over the number of positives; public recipes minimize 2 * loc + conf + landmarks."""

    loc: Tensor
    conf: Tensor
    landmarks: Tensor


class Match(NamedTuple):
    """What each of P priors is to learn from the T faces of an image.

    Attributes:
        labels: [P] int64: 1 a face, -1 a face without landmarks, 0 background.
        faces: [P] int64 in [0, T): whose box and landmarks, where the label is not 0.
        left_out: [P] bool: priors without a face that lie on one which is ignored: they are not learned from.
    """

    labels: Tensor
    faces: Tensor
    left_out: Tensor


def match_priors(targets: Tensor, priors: Tensor, overlap: float = OVERLAP) -> Match:
    """Return what each prior learns from the faces of one image.

    A prior belongs to the face that it overlaps most and is background where that overlap is below `overlap`. Then each
    face takes the prior that overlaps it most, a later face from an earlier one; where the two overlap by 0.2 or more
    the prior is no background, whatever `overlap` says. Of equal overlaps the first counts.

    A face that is ignored takes no prior from the others. Of the priors without a face those that overlap it by 0.2 or
    more, and the one that overlaps it most, are left out: neither face nor background.

    Args:
        targets: [T, 15] floating, T >= 0: box x1 y1 x2 y2 relative to the image, landmarks x1 y1 ... x5 y5, label 1,
            -1 for a face without landmarks, or 0 for one that is ignored.
        priors: [P, 4] as `ops.boxes.priors` gives them.
        overlap: intersection over union, in relative coordinates.
    Raises:
        ValueError: if shapes are others.
    Reference: Liu et al., "SSD", ECCV 2016, arXiv:1512.02325, Sec. 2.2, with RetinaFace's public rules for small faces.
    """
    if targets.ndim != 2 or targets.shape[1] != TARGET_SIZE or priors.ndim != 2 or priors.shape[1] != 4:
        raise ValueError(
            f"match_priors: targets [T, {TARGET_SIZE}] (box 4, landmarks 10, label) and priors [P, 4] are needed, got "
            f"{[*targets.shape]} and {[*priors.shape]}"
        )
    overlaps = boxes.iou(targets[:, :4], boxes.corners(priors))
    is_ignored = targets[:, -1] == 0
    left_out = (overlaps[is_ignored] >= LEAST_OVERLAP).any(dim=0)
    left_out[overlaps[is_ignored].argmax(dim=1)] = True
    counted, overlaps = (~is_ignored).nonzero()[:, 0], overlaps[~is_ignored]
    if not len(counted):
        nothing = torch.zeros(len(priors), dtype=torch.int64, device=priors.device)
        return Match(nothing, nothing, left_out)
    best_overlap, best_prior = overlaps.max(dim=1)
    overlap_of, faces = overlaps.max(dim=0)
    numbers = torch.arange(len(counted), device=targets.device)
    # The largest number is the last face that takes a prior.
    taken_by = torch.full_like(faces, -1).scatter_reduce(0, best_prior, numbers, "amax")
    faces = counted[torch.where(taken_by >= 0, taken_by, faces)]
    is_face = overlap_of >= overlap
    is_face[best_prior[best_overlap >= LEAST_OVERLAP]] = True
    labels = targets[:, -1].long()[faces] * is_face
    return Match(labels, faces, left_out & ~is_face)


def multibox_loss(
    predictions: Predictions,
    priors: Tensor,
    targets: Sequence[Tensor],
    overlap: float = OVERLAP,
    negpos: float = NEGATIVES,
    variances: Sequence[float] = boxes.VARIANCES,
    count_all: Callable[[Tensor], Tensor] | None = None,
) -> MultiBoxLosses:
    """Return the losses of boxes, classes and landmarks of a batch.

    With N the priors that are faces and N1 those of faces with landmarks, at least 1 each: loc is the sum of smooth L1
    over the N / N; landmarks the same over the N1 / N1; conf the sum of cross entropies over the N and the background
    priors of largest loss, in each image `negpos` times its faces' priors and at most P - 1, / N. No gradient passes
    through that choice; of equal losses the first priors are chosen. An image without faces adds nothing, and what lies
    on a face that is ignored is never background.

    Args:
        predictions: (loc [B, P, 4], conf [B, P, 2] logits, landmarks [B, P, 10]) floating, what a detector gives in
            training mode; losses are taken in float32 at least.
        priors: [P, 4] as `ops.boxes.priors` gives them.
        targets: B tensors [T, 15], see `match_priors`; ranges of boxes are checked where data are read.
        overlap, negpos, variances: see above and `ops.boxes.encode`.
        count_all: given [2] float, N and N1 of this batch, returns those of all ranks. Losses then add up over ranks to
            those of one process; where gradients are averaged over ranks, multiply by their number. None: one process.
    Raises:
        ValueError: if shapes disagree.
    Reference: Deng et al., "RetinaFace", arXiv:1905.00641, Eq. 1 without its dense regression; Liu et al., "SSD",
        arXiv:1512.02325, Sec. 2.2, for the hard negatives.
    """
    _check(predictions, priors, targets)
    loc, conf, landmarks = (at_least_float32(each) for each in predictions)
    matches = [match_priors(each, priors, overlap) for each in targets]
    labels = torch.stack([each.labels for each in matches])
    is_face, has_points = labels != 0, labels > 0
    counts = torch.stack([is_face.sum(), has_points.sum()]).to(loc.dtype)
    num, num_points = (count_all(counts) if count_all else counts).clamp(min=1)

    each_prior = priors.expand_as(loc)
    of_face = torch.cat([faces[each.faces[each.labels != 0]] for faces, each in zip(targets, matches, strict=True)])
    of_face = of_face.to(loc.dtype)
    box_target = boxes.encode(of_face[:, :4], each_prior[is_face], variances)
    point_target = boxes.encode_landmarks(of_face[of_face[:, -1] > 0, 4:14], each_prior[has_points], variances)
    entropy = F.cross_entropy(conf.flatten(0, 1), is_face.flatten().long(), reduction="none").view_as(labels)
    no_background = is_face | torch.stack([each.left_out for each in matches])
    wanted = negpos * is_face.sum(dim=1, keepdim=True)
    learned = is_face | (_hardest(entropy.detach().masked_fill(no_background, 0), wanted) & ~no_background)
    return MultiBoxLosses(
        F.smooth_l1_loss(loc[is_face], box_target, reduction="sum") / num,
        entropy[learned].sum() / num,
        F.smooth_l1_loss(landmarks[has_points], point_target, reduction="sum") / num_points,
    )


def _hardest(losses: Tensor, wanted: Tensor) -> Tensor:
    """Return which of the losses [B, P] are the `wanted` [B, 1] largest of their row, never all of them."""
    num = losses.shape[1]
    order = losses.argsort(dim=1, descending=True, stable=True)
    among_first = torch.arange(num, device=losses.device) < wanted.clamp(max=num - 1)
    return torch.zeros_like(among_first).scatter(1, order, among_first)


def _check(predictions: Predictions, priors: Tensor, targets: Sequence[Tensor]) -> None:
    batch, num = predictions[0].shape[0], len(priors)
    expected = [(batch, num, 4), (batch, num, 2), (batch, num, 10)]
    if [tuple(each.shape) for each in predictions] != expected or len(targets) != batch:
        found = ", ".join(str([*each.shape]) for each in predictions)
        raise ValueError(
            f"multibox_loss: loc [B, P, 4], conf [B, P, 2], landmarks [B, P, 10] and B targets are needed for {num} "
            f"priors, got {found} and {len(targets)} targets; priors are of the images' size: ops.boxes.priors"
        )
