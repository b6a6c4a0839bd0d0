"""Some of a data set: some identities, some images, and the division into training and held-out identities."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from datasets.counted import counted
from datasets.sample import FaceDataset, Image, Sample
from datasets.text_file import read_text

# Two to train on and two to tell apart: with fewer there is nothing to learn or to validate.
_MIN_PART = 2
_NUM_DRAWS = 200  # of a division, of which the best counts
_SEPARATORS = str.maketrans(",", " ")


class Subset:
    """Some images of a data set, with contiguous labels and the original names.

    Args:
        dataset: where images are read.
        indices: int64 [N], position of every kept image in `dataset`, ascending.
    Attributes:
        labels, class_names, paths, decoding: as of the data set, for the kept images; labels in the old order.
        indices: as given.
    """

    def __init__(self, dataset: FaceDataset, indices: NDArray[np.int64]) -> None:
        kept, labels = np.unique(dataset.labels[indices], return_inverse=True)
        self.dataset = dataset
        self.indices = indices
        self.labels: NDArray[np.int64] = labels.astype(np.int64, copy=False)
        self.class_names = [dataset.class_names[identity] for identity in kept.tolist()]
        self.paths = dataset.paths.take(indices)
        self.decoding = dataset.decoding

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, index: int) -> Image:
        """Return one image as uint8 [112, 112, 3] RGB; raises UnreadableImageError."""
        return self.dataset.read(int(self.indices[index]))

    def __getitem__(self, index: int) -> Sample[Image, int]:
        return Sample(self.read(index), int(self.labels[index]), 0, None, index)


class IdentitySubset(Subset):
    """The images of some identities of a data set.

    Args:
        dataset: where images are read.
        identities: labels of `dataset` to keep.
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
        is_kept = np.zeros(num_classes, bool)
        is_kept[kept] = True
        super().__init__(dataset, np.flatnonzero(is_kept[dataset.labels]))


class ImageSubset(Subset):
    """Some images of a data set, without the identities that keep too few of theirs.

    Args:
        dataset: where images are read.
        indices: distinct positions in `dataset`, in any order.
        min_images: identities with fewer of these images drop out.
    Raises:
        ValueError: if an index is given twice or lies outside the data set, or nothing is left.
    """

    def __init__(self, dataset: FaceDataset, indices: ArrayLike, min_images: int = 1) -> None:
        kept = np.unique(np.asarray(indices, np.int64))
        if kept.size != np.size(indices):
            raise ValueError(f"{np.size(indices) - kept.size} of {np.size(indices)} indices are given more than once")
        if kept.size and not 0 <= kept[0] <= kept[-1] < len(dataset):
            wrong = kept[0] if kept[0] < 0 else kept[-1]
            raise ValueError(f"index {wrong} lies outside the data set of {len(dataset)} images")
        counts = np.bincount(dataset.labels[kept], minlength=len(dataset.class_names))
        kept = kept[counts[dataset.labels[kept]] >= min_images]
        if not kept.size:
            raise ValueError(f"no identity has {min_images} images or more among the {np.size(indices)} chosen")
        super().__init__(dataset, kept)


def read_indices(path: Path) -> NDArray[np.int64]:
    """Return the positions listed in a text file, int64, separated by commas, spaces or line ends.

    Raises:
        ValueError: if the file cannot be read, is empty, or holds anything else than whole numbers.
    """
    lines = read_text(path, "indices").translate(_SEPARATORS).splitlines()
    words = [word for line in lines for word in line.split()]
    if not words:
        raise ValueError(f"{path}: holds no index")
    if any(map(_is_odd, words)):
        number, wrong = next((n, word) for n, line in enumerate(lines, 1) for word in line.split() if _is_odd(word))
        raise ValueError(f"{path}, line {number}: expected whole numbers from 0, got {wrong[:40]!r}")
    return np.array(words, np.int64)


def _is_odd(word: str) -> bool:
    return not (word.isascii() and word.isdigit() and len(word) <= 18)


def split_identities(
    num_identities: int, fraction: float, seed: int, counts: NDArray[np.int64] | None = None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Divide identities into training and held-out ones, so that both hold their share of the images too.

    Identities are sorted by their images and cut into as many parts as are to be held out; of each part one is drawn.
    So many images more or less than their share are held out at most as the largest identity has. Of many such draws
    the one counts that is nearest to the share.

    Args:
        num_identities: labels are 0 .. num_identities - 1.
        fraction: share to hold out, in [0, 1); above 0 at least 2 are held out and at least 2 stay.
        seed: the same seed gives the same division.
        counts: int64 [num_identities], images of each identity; None: one each. Of those with several at least 2 are
            held out where there are so many, because others give no genuine pair.
    Returns:
        (train, held_out), both int64 and ascending; held_out is empty when fraction is 0.
    Raises:
        ValueError: if fraction is outside [0, 1), counts do not fit, or there are fewer than 4 identities to divide.
    """
    num_held_out = _num_held_out(num_identities, fraction, counts)
    images = np.ones(num_identities, np.int64) if counts is None else np.asarray(counts, np.int64)
    rng = np.random.default_rng(seed)
    order = rng.permutation(num_identities)
    order = order[np.argsort(-images[order], kind="stable")]
    num_several = int((images > 1).sum())
    of_several = max(round(fraction * num_several), min(_MIN_PART, num_several))
    of_several = min(max(of_several, num_held_out - (num_identities - num_several)), num_held_out)
    groups = ((order[:num_several], of_several), (order[num_several:], num_held_out - of_several))
    draws = [np.concatenate([_one_of_each_part(*group, rng) for group in groups]) for _ in range(_NUM_DRAWS)]
    held_out = min(draws, key=lambda drawn: abs(float(images[drawn].sum()) - fraction * float(images.sum())))
    return np.setdiff1d(order, held_out), np.sort(held_out)


def split_at_random(
    num_identities: int, fraction: float, seed: int, counts: NDArray[np.int64] | None = None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Divide identities as runs did before `split_identities` looked at the images: runs of then go on with it.

    Arguments, result and errors are the same, but any share of the images may be held out, and identities with one
    image are only when no other is left.
    """
    num_held_out = _num_held_out(num_identities, fraction, counts)
    order = np.random.default_rng(seed).permutation(num_identities)
    if counts is not None:
        order = order[np.argsort(np.asarray(counts)[order] < 2, kind="stable")]
    return np.sort(order[num_held_out:]), np.sort(order[:num_held_out])


def _num_held_out(num_identities: int, fraction: float, counts: NDArray[np.int64] | None) -> int:
    if not 0 <= fraction < 1:
        raise ValueError(f"split_identities: fraction must be in [0, 1), got {fraction}")
    if counts is not None and len(counts) != num_identities:
        raise ValueError(f"split_identities: {num_identities} identities need as many counts, got {len(counts)}")
    if fraction == 0:
        return 0
    if num_identities < 2 * _MIN_PART:
        raise ValueError(
            f"{counted(num_identities, 'identity')} cannot be divided into training and held-out ones; at least "
            f"{2 * _MIN_PART} are needed"
        )
    return min(max(round(fraction * num_identities), _MIN_PART), num_identities - _MIN_PART)


def _one_of_each_part(ordered: NDArray[np.int64], num_parts: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Return one element, at random, of each of the parts of nearly equal length that an array is cut into."""
    if not num_parts:
        return ordered[:0]
    length, longer = divmod(len(ordered), num_parts)
    lengths = length + rng.permutation(np.arange(num_parts) < longer)  # else the first one could always be drawn
    starts = np.cumsum(lengths) - lengths
    return ordered[starts + (rng.random(num_parts) * lengths).astype(np.int64)]
