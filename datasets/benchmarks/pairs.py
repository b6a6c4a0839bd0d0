"""Pairs of images of a data set: all of them, or a benchmark drawn from held-out identities."""

from __future__ import annotations

import logging
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from datasets.benchmarks.benchmark_folder import Benchmark
from datasets.counted import counted
from datasets.faces.images import UnreadableImageError
from datasets.sample import FaceDataset, Image
from datasets.sampling.grouping import Groups, Indices, check_labels, group_by_label

logger = logging.getLogger(__name__)

_NUM_FOLDS = 10


class Pairs(NamedTuple):
    """Pairs of images of a data set, by position.

    Attributes:
        first, second: int64 [N].
        issame: bool [N].
        folds: int64 [N] where the protocol defines them, else None.
    """

    first: Indices
    second: Indices
    issame: NDArray[np.bool_]
    folds: Indices | None = None


def all_pairs(labels: ArrayLike) -> Pairs:
    """Return every unordered pair i < j of different images once; [N] labels give N (N - 1) / 2 pairs."""
    array = check_labels(labels, "all_pairs")
    first, second = np.triu_indices(len(array), k=1)
    return Pairs(first, second, array[first] == array[second])


def make_benchmark(dataset: FaceDataset, name: str = "own", max_pairs: int = 3000, seed: int = 0) -> Benchmark:
    """Draw a benchmark from a data set: genuine pairs and as many impostor pairs.

    Every unordered pair comes at most once and never holds one image twice. Genuine pairs are spread evenly over the
    identities as far as they have them. Each of the 10 folds (fewer with fewer than 10 genuine pairs) holds as many
    genuine as impostor pairs. Unreadable images are skipped and reported in one warning.

    Args:
        dataset: images of at least two identities.
        name: of the benchmark.
        max_pairs: at most this many pairs in all, at least 4.
        seed: the same data and seed give the same pairs.
    Raises:
        ValueError: if there are not two genuine and two impostor pairs of readable images, the least that a threshold
            can be cross-validated on.
    """
    if max_pairs < 4:
        raise ValueError(f"make_benchmark: max_pairs must be at least 4 (two genuine, two impostor), got {max_pairs}")
    rng = np.random.default_rng(seed)
    indices, images = _read_all(dataset, _choose_images(dataset.labels, max_pairs, rng), name)
    pairs = _draw(dataset.labels[indices], max_pairs, rng)
    members = np.stack([pairs.first, pairs.second], axis=1).ravel()
    chosen = np.stack([images[member] for member in members.tolist()])
    return Benchmark(chosen, pairs.issame, name, pairs.folds, dataset.labels[indices[members]])


def _choose_images(labels: Indices, max_pairs: int, rng: np.random.Generator) -> Indices:
    """Return the images to draw pairs from: two a pair at most, evenly from identities, preferring those with two."""
    groups = group_by_label(check_labels(labels, "make_benchmark"))
    identities = rng.permutation(len(groups.counts))
    identities = identities[np.argsort(groups.counts[identities] < 2, kind="stable")][:max_pairs]
    wanted = _spread(groups.counts[identities], 2 * max_pairs, rng)
    ends = groups.starts[identities] + groups.counts[identities]
    ranges = zip(groups.starts[identities], ends, wanted, strict=True)
    return np.concatenate([rng.choice(groups.order[start:end], number, replace=False) for start, end, number in ranges])


def _read_all(dataset: FaceDataset, indices: Indices, name: str) -> tuple[Indices, list[Image]]:
    """Return the positions that can be read, each file once, with their images."""
    by_path = {dataset.paths[index]: index for index in indices.tolist()}
    images: dict[int, Image] = {}
    failures: list[UnreadableImageError] = []
    for index in by_path.values():
        try:
            images[index] = dataset.read(index)
        except UnreadableImageError as error:
            failures.append(error)
    if failures:
        logger.warning("%s: %d unreadable images are skipped, the first is %s", name, len(failures), failures[0])
    return np.fromiter(images, np.int64, len(images)), list(images.values())


def _draw(labels: Indices, max_pairs: int, rng: np.random.Generator) -> Pairs:
    """Return shuffled pairs of positions in `labels`, half of them genuine, in balanced folds."""
    groups = group_by_label(labels) if labels.size else Groups(labels, labels, labels)
    of_identity = groups.counts * (groups.counts - 1) // 2
    num_impostors = labels.size * (labels.size - 1) // 2 - int(of_identity.sum())
    num = min(max_pairs // 2, int(of_identity.sum()), num_impostors)
    if num < 2:
        raise ValueError(
            f"{counted(len(groups.counts), 'identity')} with {counted(labels.size, 'readable image')} give "
            f"{of_identity.sum()} genuine and {num_impostors} impostor pairs; at least two of each are needed"
        )
    genuine = _genuine(groups, _spread(of_identity, num, rng), rng)
    impostor = _impostors(groups, num, rng)
    pairs = np.concatenate([rng.permutation(genuine), impostor])
    folds = np.tile(np.arange(num) % min(_NUM_FOLDS, num), 2)
    # Sorted by fold, as the published protocols are.
    order = np.argsort(folds, kind="stable")
    return Pairs(pairs[order, 0], pairs[order, 1], (np.arange(2 * num) < num)[order], folds[order])


def _spread(available: Indices, total: int, rng: np.random.Generator) -> Indices:
    """Return how many to take of each of `available`, as evenly as they allow, `total` (or all there are) together."""
    taken = np.zeros_like(available)
    while (rest := min(total, int(available.sum())) - int(taken.sum())) > 0:
        not_empty = rng.permutation(np.flatnonzero(taken < available))[:rest]
        taken[not_empty] = np.minimum(taken[not_empty] + rest // len(not_empty), available[not_empty])
    return taken


def _genuine(groups: Groups, wanted: Indices, rng: np.random.Generator) -> Indices:
    """Return [N, 2] different pairs within the identities, `wanted` of each."""
    found = []
    for identity in np.flatnonzero(wanted):
        start, count = groups.starts[identity], int(groups.counts[identity])
        numbers = rng.choice(count * (count - 1) // 2, wanted[identity], replace=False, shuffle=False)
        # Pair number n of the strict lower triangle: row r holds the numbers r (r - 1) / 2 .. r (r + 1) / 2 - 1.
        row = ((1 + np.sqrt(1 + 8 * numbers)) // 2).astype(np.int64)
        found.append(groups.order[start + np.stack([numbers - row * (row - 1) // 2, row], axis=1)])
    return np.concatenate(found)


def _impostors(groups: Groups, num: int, rng: np.random.Generator) -> Indices:
    """Return [num, 2] different pairs of different identities, each pair equally likely; `num` of them must exist."""
    size = groups.order.size
    start = np.repeat(groups.starts, groups.counts)
    count = np.repeat(groups.counts, groups.counts)
    # An image is drawn as often as it has partners, its partner among all images but those of its identity.
    partners = np.cumsum(size - count)
    found = np.empty((0, 2), np.int64)
    while len(found) < num:
        first = np.searchsorted(partners, rng.integers(partners[-1], size=2 * num), side="right")
        second = rng.integers(size - count[first])
        second += np.where(second >= start[first], count[first], 0)
        drawn = np.sort(groups.order[np.stack([first, second], axis=1)], axis=1)
        found = np.concatenate([found, drawn])
        # In the order of drawing: sorting by position would favor the first images.
        found = found[np.sort(np.unique(found, axis=0, return_index=True)[1])]
    return found[:num]
