"""How many lists images have to visit: planned by the true neighbours of a few, before any others are searched."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from datasets.clustering.lists import CHUNK, RECALL, Visits
from datasets.clustering.search import true_neighbours
from datasets.clustering.vectors import Vectors

Int64Array = NDArray[np.int64]

LOW_RECALL = 0.98  # a search that finds less deserves a warning
MAX_PROBE = 64  # more are not planned: of 4,096 lists these are 16 teraflop for a million embeddings of 512 numbers
_FEWEST, _MOST = 256, 1000  # images that plan; half as many as there are lists, so that the plan costs little


def planned_visits(vectors: Vectors, centers: Tensor, k: int, threshold: float, seed: int) -> Visits:
    """Return the fewest lists a visit that find a share of RECALL of the true edges of some images.

    An edge is found if one of its images visits the other's own list, so the ranks of the lists say how many visits
    each edge takes. The images are drawn: a standard error of the share is kept in reserve.

    Args:
        vectors: N unit vectors.
        centers: of the lists, float32 [num_lists, D].
        k, threshold: as of `neighbours`.
        seed: draws the images; others than those that `edge_recall` draws by it.
    Returns:
        1 to MAX_PROBE visits; 1 if no image drawn has a neighbour.
    """
    num_lists = len(centers)
    num_queries = min(max(num_lists // 2, _FEWEST), _MOST)
    queries = np.sort(np.random.default_rng((seed, 1)).permutation(vectors.num)[:num_queries])
    true = true_neighbours(vectors, queries, k, threshold).indices
    row, place = (true >= 0).nonzero()
    if not len(row):
        return Visits(num_lists, 1, len(queries))
    needed = _needed(vectors, centers, queries[row], true[row, place])
    most = min(MAX_PROBE, num_lists)
    found = np.zeros((len(queries), num_lists + 1))
    np.add.at(found, (row, needed), 1)
    found = found.cumsum(axis=1)[:, 1 : most + 1]  # edges of each image that so many visits find
    share = found.sum(axis=0) / len(row)
    # An image's edges are alike: the error is that of images, not of edges.
    residual = found - share * (true >= 0).sum(axis=1, keepdims=True)
    is_enough = share - np.sqrt((residual**2).sum(axis=0)) / len(row) >= RECALL
    probe = int(is_enough.argmax()) + 1 if is_enough.any() else most
    return Visits(num_lists, probe, len(queries), float(share[probe - 1]))


def _needed(vectors: Vectors, centers: Tensor, images: Int64Array, others: Int64Array) -> Int64Array:
    """Return how many lists the images of each edge have to visit until one of them comes to the other's own."""
    needed = []
    for start in range(0, len(images), CHUNK):
        first, second = (vectors.rows(ends[start : start + CHUNK]) @ centers.T for ends in (images, others))
        nearer = [
            (products > products.gather(1, others_products.argmax(dim=1, keepdim=True))).sum(dim=1)
            for products, others_products in ((first, second), (second, first))
        ]
        needed.append(1 + torch.minimum(*nearer))
    return torch.cat(needed).cpu().numpy()


def search_figures(visits: Visits | None, recall: float) -> dict[str, Any]:
    """Return what reports say of a search, safe in JSON: its measured edge recall, and how many lists were visited."""
    return {
        "edge_recall": None if math.isnan(recall) else recall,
        "visits": None if visits is None else visits._asdict(),
    }
