"""K-means lists: which images are near which centers, so that only those are multiplied with one another."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from datasets.clustering.vectors import Vectors
from datasets.progress import tracked

Int64Array = NDArray[np.int64]
Int32Array = NDArray[np.int32]

_SAMPLE = 40  # vectors for each list that k-means sees
_ROUNDS = 5
_CHUNK = 2**13  # rows whose cosines with all centers are held at a time


class Lists(NamedTuple):
    """What k-means found.

    Attributes:
        probes: int32 [N, P], the lists nearest to each image, the first one its own.
        order: int64 [N], images by their own list.
        starts: int64 [num_lists + 1], where each list begins in `order`.
    """

    probes: Int32Array
    order: Int64Array
    starts: Int64Array

    @property
    def num(self) -> int:
        """Number of lists, empty ones included."""
        return len(self.starts) - 1

    def members(self, number: int) -> Int64Array:
        """Return the images whose own list this is, ascending."""
        return self.order[self.starts[number] : self.starts[number + 1]]


class Visitors:
    """Which images visit each list: those that have it among their probes."""

    def __init__(self, lists: Lists) -> None:
        flat = lists.probes.ravel()
        self._order = np.argsort(flat, kind="stable").astype(np.int64)
        self._starts = np.searchsorted(flat[self._order], np.arange(lists.num + 1))
        self._width = lists.probes.shape[1]

    def of(self, number: int) -> Int64Array:
        """Return the images that probe this list, ascending."""
        return self._order[self._starts[number] : self._starts[number + 1]] // self._width


def number_of_lists(num_images: int) -> int:
    """Return a power of two near 1.6 times the root of the number of images: 512 for 100,000, 2,048 for a million."""
    return int(2 ** round(np.log2(max(1.0, 1.6 * num_images**0.5))))


def build_lists(vectors: Vectors, num_lists: int, probe: int, seed: int, hidden: bool = False) -> Lists:
    """Return lists by spherical k-means on a sample; a function of vectors, numbers and seed.

    Args:
        vectors: N unit vectors.
        num_lists: in [1, N].
        probe: lists that each image visits, its own included; at most num_lists.
        seed: draws the sample and the first centers.
        hidden: no progress bar.
    """
    centers = _centers(vectors, num_lists, np.random.default_rng(seed))
    probes = np.empty((vectors.num, min(probe, num_lists)), np.int32)
    for start in tracked(range(0, vectors.num, _CHUNK), "lists", hidden=hidden):
        part = slice(start, start + _CHUNK)
        nearest = (vectors.rows(part) @ centers.T).topk(probes.shape[1], dim=1)
        probes[part] = nearest.indices.cpu().numpy()
    return lists_of(probes, num_lists)


def lists_of(probes: Int32Array, num_lists: int) -> Lists:
    """Return the lists that images with these probes, int32 [N, P], are in."""
    own = probes[:, 0]
    order = np.argsort(own, kind="stable").astype(np.int64)
    return Lists(probes, order, np.searchsorted(own[order], np.arange(num_lists + 1)))


def _centers(vectors: Vectors, num_lists: int, rng: np.random.Generator) -> Tensor:
    """Return unit centers [num_lists, D] on the vectors' device."""
    size = min(vectors.num, _SAMPLE * num_lists)
    chosen = np.sort(rng.choice(vectors.num, size, replace=False))
    sample = vectors.rows(chosen)
    on_cpu = sample.cpu().numpy()
    centers = sample[torch.from_numpy(rng.choice(size, num_lists, replace=False)).to(sample.device)]
    for _ in range(_ROUNDS):
        nearest = torch.cat([(part @ centers.T).argmax(dim=1) for part in sample.split(_CHUNK)]).cpu().numpy()
        order = np.argsort(nearest, kind="stable")
        filled, starts = np.unique(nearest[order], return_index=True)
        # Sums in a fixed order, on the CPU: those of a GPU differ from run to run.
        sums = np.add.reduceat(on_cpu[order], starts, axis=0)
        fresh = on_cpu[rng.choice(size, num_lists)]  # for lists that nobody is in
        fresh[filled] = sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-12)
        centers = torch.from_numpy(fresh).to(sample.device)
    return centers
