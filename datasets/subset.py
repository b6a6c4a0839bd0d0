"""Some of the identities of a data set, and the division into training and held-out identities."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from datasets.sample import FaceDataset, Image, Sample

# Two to train on and two to tell apart: with fewer there is nothing to learn or to validate.
_MIN_PART = 2


class IdentitySubset:
    """The images of some identities of a data set, with contiguous labels and the original names.

    Args:
        dataset: where images are read.
        identities: labels of `dataset` to keep; the new labels follow their ascending order.
    Attributes:
        labels, class_names, paths, decoding: as of the data set, for the kept images.
        indices: int64 [N], position of every kept image in `dataset`.
    Raises:
        ValueError: if no identity is given, one is given twice or does not exist.
    """

    def __init__(self, dataset: FaceDataset, identities: ArrayLike) -> None:
        kept = np.unique(np.asarray(identities, np.int64))
        num_classes = len(dataset.class_names)
        if kept.size == 0 or kept.size != np.size(identities) or kept[0] < 0 or kept[-1] >= num_classes:
            raise ValueError(
                f"IdentitySubset: identities must be distinct and in [0, {num_classes}), got {np.size(identities)} "
                f"with {kept.size} distinct from {kept.min(initial=0)} to {kept.max(initial=0)}"
            )
        new_label = np.full(num_classes, -1, np.int64)
        new_label[kept] = np.arange(kept.size)
        labels = new_label[dataset.labels]
        self.dataset = dataset
        self.indices: NDArray[np.int64] = np.flatnonzero(labels >= 0)
        self.labels: NDArray[np.int64] = labels[self.indices]
        self.class_names = [dataset.class_names[identity] for identity in kept]
        self.paths = dataset.paths.take(self.indices)
        self.decoding = dataset.decoding

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, index: int) -> Image:
        """Return one image as uint8 [112, 112, 3] RGB; raises UnreadableImageError."""
        return self.dataset.read(int(self.indices[index]))

    def __getitem__(self, index: int) -> Sample[Image, int]:
        return Sample(self.read(index), int(self.labels[index]), 0, None, index)


def split_identities(
    num_identities: int, fraction: float, seed: int, counts: NDArray[np.int64] | None = None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Divide identities into training and held-out ones, at random.

    Args:
        num_identities: labels are 0 .. num_identities - 1.
        fraction: share to hold out, in [0, 1); above 0 at least 2 are held out and at least 2 stay.
        seed: the same seed gives the same division.
        counts: int64 [num_identities], images of each identity; those with one image are held out only when no other
            is left, because they give no genuine pair.
    Returns:
        (train, held_out), both int64 and ascending; held_out is empty when fraction is 0.
    Raises:
        ValueError: if fraction is outside [0, 1), counts do not fit, or there are fewer than 4 identities to divide.
    """
    if not 0 <= fraction < 1:
        raise ValueError(f"split_identities: fraction must be in [0, 1), got {fraction}")
    if counts is not None and len(counts) != num_identities:
        raise ValueError(f"split_identities: {num_identities} identities need as many counts, got {len(counts)}")
    if fraction == 0:
        return np.arange(num_identities), np.empty(0, np.int64)
    if num_identities < 2 * _MIN_PART:
        raise ValueError(
            f"split_identities: {num_identities} identities cannot be divided into training and held-out ones; at "
            f"least {2 * _MIN_PART} are needed, or a fraction of 0"
        )
    order = np.random.default_rng(seed).permutation(num_identities)
    if counts is not None:
        order = order[np.argsort(np.asarray(counts)[order] < 2, kind="stable")]
    num_held_out = min(max(round(fraction * num_identities), _MIN_PART), num_identities - _MIN_PART)
    return np.sort(order[num_held_out:]), np.sort(order[:num_held_out])
