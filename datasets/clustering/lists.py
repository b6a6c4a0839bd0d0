"""K-means lists: which images are near which centers, so that only those are multiplied with one another."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor

from datasets.clustering.vectors import Vectors
from datasets.progress import tracked

Int64Array = NDArray[np.int64]
Int32Array = NDArray[np.int32]

CHUNK = 2**13  # rows whose cosines with all centers are held at a time

RECALL = 0.99  # of edges: what is planned for
_SAMPLE = 40  # vectors for each list that k-means sees
_ROUNDS = 5


class Visits(NamedTuple):
    """How many lists each image visits, and how that was planned.

    Attributes:
        num_lists: that there are.
        probe: of them, those that an image visits, its own included.
        planning_queries: images whose true neighbours planned it; 0: the number was given.
        planned_recall: share of their edges that the visits find; None if there are none.
    """

    num_lists: int
    probe: int
    planning_queries: int = 0
    planned_recall: float | None = None

    @property
    def is_capped(self) -> bool:
        """Whether the plan ends before what it is for."""
        return self.planned_recall is not None and self.planned_recall < RECALL


class Lists(NamedTuple):
    """What k-means found.

    Attributes:
        probes: int32 [N, P], the lists nearest to each image, the first one its own.
        order: int64 [N], images by their own list.
        starts: int64 [num_lists + 1], where each list begins in `order`.
        visits: how many lists an image visits, and why.
    """

    probes: Int32Array
    order: Int64Array
    starts: Int64Array
    visits: Visits

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
        num, width = lists.probes.shape
        rows = np.arange(0, num * width + 1, width)
        visited = sparse.csr_array((np.ones(num * width, np.int8), lists.probes.ravel(), rows), shape=(num, lists.num))
        by_list = visited.tocsc()  # counts, sorts nothing: many visits take 5 bytes each
        self._images, self._starts = by_list.indices, by_list.indptr

    def of(self, number: int) -> Int64Array:
        """Return the images that probe this list, ascending."""
        return self._images[self._starts[number] : self._starts[number + 1]].astype(np.int64)


def number_of_lists(num_images: int) -> int:
    """Return a power of two near 0.4 N^(2/3) for N images: 1,024 for 100,000, 4,096 for a million.

    The work is to find each image's list, N L products, and N^2 P / L for P visits. The more images, the more visits
    an edge takes, so L grows faster than the root of N.
    """
    return int(2 ** round(np.log2(max(1.0, 0.4 * num_images ** (2 / 3)))))


def build_lists(vectors: Vectors, centers: Tensor, visits: Visits, hidden: bool = False) -> Lists:
    """Return the lists of N unit vectors around centers, float32 [num_lists, D]; `hidden`: no progress bar."""
    probes = np.empty((vectors.num, visits.probe), np.int32)
    for start in tracked(range(0, vectors.num, CHUNK), "lists", hidden=hidden):
        part = slice(start, start + CHUNK)
        nearest = (vectors.rows(part) @ centers.T).topk(visits.probe, dim=1)
        probes[part] = nearest.indices.cpu().numpy()
    return lists_of(probes, visits)


def lists_of(probes: Int32Array, visits: Visits) -> Lists:
    """Return the lists that images with these probes, int32 [N, P], are in."""
    own = probes[:, 0]
    order = np.argsort(own, kind="stable").astype(np.int64)
    return Lists(probes, order, np.searchsorted(own[order], np.arange(visits.num_lists + 1)), visits)


def k_means(vectors: Vectors, num_lists: int, seed: int) -> Tensor:
    """Return centers by spherical k-means on a sample; a function of vectors, number and seed.

    Args:
        vectors: N unit vectors.
        num_lists: in [1, N].
        seed: draws the sample and the first centers.
    Returns:
        float32 [num_lists, D] of unit length on the vectors' device.
    """
    rng = np.random.default_rng(seed)
    size = min(vectors.num, _SAMPLE * num_lists)
    chosen = np.sort(rng.choice(vectors.num, size, replace=False))
    sample = vectors.rows(chosen)
    on_cpu = sample.cpu().numpy()
    centers = sample[torch.from_numpy(rng.choice(size, num_lists, replace=False)).to(sample.device)]
    for _ in range(_ROUNDS):
        nearest = torch.cat([(part @ centers.T).argmax(dim=1) for part in sample.split(CHUNK)]).cpu().numpy()
        order = np.argsort(nearest, kind="stable")
        filled, starts = np.unique(nearest[order], return_index=True)
        # Sums in a fixed order, on the CPU: those of a GPU differ from run to run.
        sums = np.add.reduceat(on_cpu[order], starts, axis=0)
        fresh = on_cpu[rng.choice(size, num_lists)]  # for lists that nobody is in
        fresh[filled] = sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-12)
        centers = torch.from_numpy(fresh).to(sample.device)
    return centers
