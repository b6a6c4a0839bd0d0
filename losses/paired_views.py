"""Losses over two views of the same images, row by row: degraded and clean, student and teacher, LR and HR.

They take embeddings as a net gives them and normalize them in float32 (float64 where either is), under any autocast. A
gradient flows into both sides; whoever wants one of them fixed detaches it. Two sides that move freely towards each
other collapse when nothing else holds people apart: `paired_cosine` alone does that in a few epochs.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ops import at_least_float32


def paired_cosine(a: Tensor, b: Tensor) -> Tensor:
    """Return the mean of 1 - cosine over the rows: half the squared distance of the unit embeddings.

    It is also the loss of a student against a teacher, given `teacher(images).detach()` as one side.

    Args:
        a, b: [B, D] floating; row i of both is one image.
    Returns:
        Scalar in [0, 2].
    Raises:
        ValueError: if shapes disagree or there is no row.
    """
    first, second = unit_rows("paired_cosine", a, b)
    return (1 - (first * second).sum(dim=1)).mean()


def info_nce(a: Tensor, b: Tensor, temperature: float = 0.07, labels: Tensor | None = None) -> Tensor:
    """Return the symmetric InfoNCE: each row must find its other view among all rows of the other side.

    (CE(S, i) + CE(S', i)) / 2 with S = cosines / temperature, averaged over rows. Without labels other images of the
    same person are negatives, wrongly so in a PK batch: give the labels there.

    Args:
        a, b: [B, D] floating; row i of both is one image.
        temperature: > 0.
        labels: [B] int64; other rows of the same person are left out of the negatives. Negative labels stand for an
            unknown person and are equal to nothing. Labels of several data sets must not overlap.
    Returns:
        Scalar >= 0; 0, with gradient 0, where no row has a negative.
    Raises:
        ValueError: if shapes disagree, there is no row, or the temperature is not above 0.
        TypeError: if labels are not int64.
    Reference: van den Oord, Li, Vinyals, arXiv:1807.03748, Eq. 4; symmetric as in Radford et al., arXiv:2103.00020.
    """
    scores = _scores("info_nce", a, b, temperature)
    if labels is not None:
        own = torch.eye(len(scores), dtype=torch.bool, device=scores.device)
        scores = scores.masked_fill(_same_person("info_nce", labels, len(scores)) & ~own, -torch.inf)
    target = torch.arange(len(scores), device=scores.device)
    return (F.cross_entropy(scores, target) + F.cross_entropy(scores.T, target)) / 2


def supervised_contrastive(a: Tensor, b: Tensor, labels: Tensor, temperature: float = 0.07) -> Tensor:
    """Return the supervised contrastive loss across views: each row must find every image of its person there.

    For a row of one side, minus the mean log probability (softmax over all rows of the other side) of the images of
    its person, its own other view included; averaged over rows and over both directions. A person with k images keeps
    a loss of at least log k.

    Args:
        a, b: [B, D] floating; row i of both is one image.
        labels: [B] int64; a negative one stands for an unknown person, whose only positive is the own other view.
        temperature: > 0.
    Returns:
        Scalar >= 0.
    Raises:
        ValueError: if shapes disagree, there is no row, or the temperature is not above 0.
        TypeError: if labels are not int64.
    Reference: Khosla et al., "Supervised Contrastive Learning", NeurIPS 2020, arXiv:2004.11362, Eq. 2, with the other
        view as the reference set.
    """
    scores = _scores("supervised_contrastive", a, b, temperature)
    same = _same_person("supervised_contrastive", labels, len(scores)).to(scores.dtype)
    positives = same / same.sum(dim=1, keepdim=True)  # symmetric: everyone of a person has as many
    return (F.cross_entropy(scores, positives) + F.cross_entropy(scores.T, positives)) / 2


def unit_rows(place: str, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Return both sides [B, D] with unit rows in at least float32, or refuse them in the name of `place`."""
    if a.ndim != 2 or a.shape != b.shape or not len(a):
        raise ValueError(
            f"{place}: both sides must be [B, D] with B >= 1, row i one image, got {[*a.shape]} and {[*b.shape]}"
        )
    return F.normalize(at_least_float32(a), dim=1), F.normalize(at_least_float32(b), dim=1)


def check_temperature(place: str, temperature: float) -> None:
    """Raise ValueError, in the name of `place`, unless the temperature is above 0."""
    if not temperature > 0:
        raise ValueError(f"{place}: temperature must be above 0, got {temperature}")


def _scores(place: str, a: Tensor, b: Tensor, temperature: float) -> Tensor:
    check_temperature(place, temperature)
    first, second = unit_rows(place, a, b)
    # Without this, autocast would run the product in half precision, whose rounding the temperature magnifies.
    with torch.autocast(first.device.type, enabled=False):
        return first @ second.T / temperature


def _same_person(place: str, labels: Tensor, num: int) -> Tensor:
    """Return bool [B, B]: rows of one person; each row with itself."""
    if labels.shape != (num,):
        raise ValueError(f"{place}: labels must be [{num}] to match the embeddings, got {[*labels.shape]}")
    if labels.dtype != torch.int64:
        raise TypeError(f"{place}: labels must be int64, got {labels.dtype}; convert them with .long()")
    same = (labels[:, None] == labels) & (labels >= 0)
    return same | torch.eye(num, dtype=torch.bool, device=labels.device)
