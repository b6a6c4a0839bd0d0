"""Neighbours by faiss, an optional package: the inverted file that others use, and the oracle of the tests."""

from __future__ import annotations

from typing import Any

import numpy as np

from datasets.clustering.best import BestNeighbours, Neighbours
from datasets.clustering.lists import Visits
from datasets.clustering.vectors import Vectors
from datasets.progress import tracked

FAISS_PROBE = 16  # lists that an image visits where no number is given; nothing is planned
_BLOCK = 2**14
_SAMPLE = 40  # vectors for each list that k-means sees
_FEWEST = 39  # below so many faiss warns


def faiss_neighbours(vectors: Vectors, k: int, threshold: float, num_lists: int, probe: int | None) -> Neighbours:
    """Return the k nearest neighbours above a threshold; exact where each list would have few members.

    Args:
        vectors: N unit vectors; faiss holds them as float32.
        k: neighbours of an image.
        threshold: least cosine.
        num_lists: of the inverted file.
        probe: lists that an image visits; None: FAISS_PROBE.
    Raises:
        ValueError: if faiss is not installed.
    """
    index = build_index(vectors, num_lists, probe or FAISS_PROBE)
    best = BestNeighbours(vectors.num, k, threshold)
    for start in tracked(range(0, vectors.num, _BLOCK), "neighbours"):
        part = np.arange(start, min(vectors.num, start + _BLOCK))
        # One more: the image finds itself, unless k + 1 duplicates crowd it out.
        similarities, found = index.search(vectors.rows(slice(start, start + _BLOCK)).cpu().numpy(), k + 1)
        row, place = np.nonzero((found >= 0) & (found != part[:, None]))  # -1: faiss found no more
        best.add(part[row], found[row, place], similarities[row, place])
    visits = Visits(index.nlist, index.nprobe) if hasattr(index, "nprobe") else None
    return best.result()._replace(visits=visits)


def build_index(vectors: Vectors, num_lists: int, probe: int) -> Any:
    """Return faiss's index of the vectors: IVFFlat, or Flat where lists would be too short to train."""
    try:
        import faiss
    except ImportError as error:
        raise ValueError(
            "method faiss needs the package faiss-cpu, which is not installed: `make setup-extras` installs it; or take"
            " another method"
        ) from error
    index: Any = faiss.IndexFlatIP(vectors.dim)
    if vectors.num >= _FEWEST * num_lists and num_lists > 1:
        index = faiss.IndexIVFFlat(index, vectors.dim, num_lists, faiss.METRIC_INNER_PRODUCT)
        index.nprobe = min(probe, num_lists)
        chosen = np.random.default_rng(0).permutation(vectors.num)[: _SAMPLE * num_lists]
        index.train(vectors.rows(np.sort(chosen)).cpu().numpy())
    for start in range(0, vectors.num, _BLOCK):
        index.add(vectors.rows(slice(start, start + _BLOCK)).cpu().numpy())
    return index
