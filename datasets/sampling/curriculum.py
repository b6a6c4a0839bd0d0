"""Easy images first: how likely an image, and a data set, is drawn as training goes on.

Everything is a function of the epoch and of difficulties known beforehand, so that runs resume and ranks agree. Images
are drawn without replacement: at the end of the curriculum, when all weigh the same, the epoch is the very one
that is planned without a curriculum, and nothing jumps on the way there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from datasets.sampling.shares import FloatArray


@dataclass(frozen=True)
class Curriculum:
    """The course of a curriculum: s rises from 0 in epoch `start` to 1 in epoch `end`, in a straight line.

    An image weighs (1 - s) (floor + (1 - floor) ease^gamma) + s: in [floor, 1], exactly 1 from `end` on, never falling
    from epoch to epoch. Only the order of difficulties counts. A loss that follows quality itself, as AdaFace's does,
    counts it a second time.

    Attributes:
        start, end: epochs, start <= end; equal ones make a step.
        floor: in [0, 1], weight of the hardest image at first. 1: no curriculum of images. 0: the hardest come last.
        gamma: > 0, the higher, the fewer images count as easy.
    Raises:
        ValueError: if a number is out of its range.
    """

    start: float
    end: float
    floor: float = 0.1
    gamma: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.start <= self.end < np.inf:
            raise ValueError(f"Curriculum: 0 <= start <= end epochs are needed, got {self.start} and {self.end}")
        if not 0 <= self.floor <= 1 or not 0 < self.gamma < np.inf:
            raise ValueError(
                f"Curriculum: a floor in [0, 1] and a gamma above 0 are needed, got {self.floor} and {self.gamma}"
            )

    def progress(self, epoch: float) -> float:
        """Return s of an epoch, in [0, 1]."""
        if epoch >= self.end:
            return 1.0
        return max(0.0, (epoch - self.start) / (self.end - self.start)) if epoch > self.start else 0.0

    def weights(self, ease: ArrayLike, epoch: float) -> FloatArray:
        """Return the weights of images of ease [N] (see `ease_of`) in an epoch, float64 [N]."""
        done = self.progress(epoch)
        return (1 - done) * (self.floor + (1 - self.floor) * np.asarray(ease, np.float64) ** self.gamma) + done

    def mix(self, first: ArrayLike, last: ArrayLike, epoch: float) -> FloatArray:
        """Return the shares of data sets in an epoch, between `first` and `last`, each of which is made to sum to 1."""
        done = self.progress(epoch)
        begin, finish = (np.asarray(weights, np.float64) / np.sum(weights) for weights in (first, last))
        return (1 - done) * begin + done * finish


class CurriculumMix(NamedTuple):
    """Weights for a `MixtureBatchSampler` that change over the epochs.

    Attributes:
        curriculum: when.
        weights: of each set at first, in proportion to its share of a batch.
        final_weights: at the end; None: as at first.
        ease: of the images of each set, float [N] each in [0, 1], see `ease_of`; None for a set whose images all weigh
            the same; None alone: for all sets.
        epoch_share: images of an epoch in all images, in (0, 1]. Images have to be left out for a choice to be there: a
            set that is passed exactly once an epoch has none. Of one set alone take half or less.
    """

    curriculum: Curriculum
    weights: Sequence[float]
    final_weights: Sequence[float] | None = None
    ease: Sequence[ArrayLike | None] | None = None
    epoch_share: float = 1.0


def ease_of(difficulty: ArrayLike) -> FloatArray:
    """Return 1 for the easiest image and 0 for the hardest by their order, float64 [N]; ties share their mean rank.

    ease = 1 - (rank - 1) / (N - 1), so that any rising function of the difficulty gives the same. One image is easy.

    Raises:
        ValueError: if the difficulty is not [N] or holds NaN: an image without a known one has no place in the order.
    """
    values = np.asarray(difficulty, np.float64)
    if values.ndim != 1 or np.isnan(values).any():
        raise ValueError(
            f"ease_of: difficulties must be [N] numbers, got {list(values.shape)} with {np.isnan(values).sum()} NaN"
        )
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    before = np.cumsum(counts) - counts  # images that are easier, for each difficulty
    return 1 - (before + (counts - 1) / 2)[place] / max(1, len(values) - 1)


def draw_weighted(weights: FloatArray, num: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Return `num` different places of weights [N], drawn one after the other in proportion to the weights left.

    The places of the `num` largest u^(1 / w), u uniform; in no order. Weights of 0 are drawn when no other is left.

    Reference: Efraimidis, Spirakis, "Weighted random sampling with a reservoir", Inf. Process. Lett. 97, 2006.
    """
    if num == 0:
        return np.empty(0, np.int64)
    with np.errstate(divide="ignore"):
        keys = rng.standard_exponential(len(weights)) / weights  # -log(u) / w, which has the opposite order
    return np.argpartition(keys, num - 1)[:num]
