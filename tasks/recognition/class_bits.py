"""What the margin heads know of the images of a step beyond how frequent their classes are, in bits.

As `evaluation.bits_over_prior` and `fit_temperature` say it, but on the device, for the images of all ranks, and of
each data set by its own head.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from heads import Head, MarginHead
from ops import gather, own_rank, world_size

_TEMPERATURES = (1e-3, 1e3)
_HALVINGS = 24  # of the logarithms between both: the temperature is known to a millionth


class _Judged(NamedTuple):
    """The images of a set on this rank, and how many there are on all."""

    logits: Tensor  # [N, C], without margin
    labels: Tensor  # [N] int64
    gained: Tensor  # [N], natural logarithm of 1 / prior of the label
    first: int  # place of the first among the set's images of all ranks
    total: int  # of these

    def half(self, parity: int) -> _Judged:
        """Return every second image, counted over all ranks: those of even places, or of odd ones."""
        rows = slice((parity - self.first) % 2, None, 2)
        return _Judged(self.logits[rows], self.labels[rows], self.gained[rows], 0, (self.total + 1 - parity) // 2)

    def bits(self, factor: Tensor | float = 1.0) -> Tensor:
        """Return the mean bits of logits times a factor, of which the ranks' mean is that of all images."""
        chances = (factor * self.logits).log_softmax(1).gather(1, self.labels[:, None])[:, 0]
        return (chances + self.gained).sum() * (world_size() / self.total / math.log(2))

    def excess(self, factor: Tensor) -> Tensor:
        """Return the sum of the mean logits under the answers less the logits of the labels; rises with the factor."""
        true = self.logits.gather(1, self.labels[:, None])[:, 0]
        return ((factor * self.logits).softmax(1).mul_(self.logits).sum(1) - true).sum()


@torch.no_grad()
def class_bits(heads: Mapping[str, Head], embedding: Tensor, labels: Tensor, dataset_ids: Tensor) -> dict[str, Tensor]:
    """Return bits per image over the class prior, as scalars whose mean over the ranks is that of all images.

    All ranks must call it together. A head that is split over them, or that does not know its classes' shares, has
    none.

    Args:
        heads: by data set, in the order of their numbers.
        embedding: [B, D] floating, unit length.
        labels, dataset_ids: [B] int64.
    Returns:
        `train_bits`, with the head's own scale, and `train_bits_fitted`, with the one temperature that is best for the
        images of even places and is judged by the others; with `/NAME` for each of several sets. A set without an image
        has none, one with a single image no fitted ones.
    """
    ids = dataset_ids.to(embedding.device) if len(heads) > 1 else torch.zeros_like(labels)
    counts = gather(torch.stack([(ids == number).sum() for number in range(len(heads))])[None]).cpu()
    judged = {}
    for number, (name, head) in enumerate(heads.items()):
        if isinstance(head, MarginHead) and head.class_shares is not None:
            rows = ids == number
            first, total = int(counts[: own_rank(), number].sum()), int(counts[:, number].sum())
            if total:  # of all ranks, which therefore agree
                judged[name] = _Judged(*_answers(head, embedding[rows], labels[rows]), first, total)
    fitted = _fitted_factors([one.half(0) for one in judged.values()], embedding.device)
    values = {}
    for (name, one), factor in zip(judged.items(), fitted, strict=True):
        suffix = f"/{name}" if len(heads) > 1 else ""
        values[f"train_bits{suffix}"] = one.bits()
        if one.total > 1:
            values[f"train_bits_fitted{suffix}"] = one.half(1).bits(factor)
    return values


def _answers(head: MarginHead, embedding: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return logits [N, C], labels [N] and the logarithms of 1 / prior of these [N]."""
    assert head.class_shares is not None
    logits = head.logits(embedding)
    return logits, labels, -head.class_shares.to(logits)[labels].log()


def _fitted_factors(judged: Sequence[_Judged], device: torch.device) -> Tensor:
    """Return 1 / T of the best temperature of each set, [sets] float64: where the excess of all ranks changes sign."""
    low, high = (torch.full((len(judged),), math.log(end), device=device).double() for end in _TEMPERATURES)
    for _ in range(_HALVINGS if judged else 0):
        middle = (low + high) / 2
        factors = (-middle).exp()
        excess = torch.stack([one.excess(factor) for one, factor in zip(judged, factors, strict=True)])
        is_sharp = gather(excess.double()[None]).sum(0) > 0
        low, high = torch.where(is_sharp, middle, low), torch.where(is_sharp, high, middle)
    return (-(low + high) / 2).exp()
