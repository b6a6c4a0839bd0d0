"""The nearest neighbours of every image above a threshold: exact, by k-means lists, or by faiss."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from datasets.clustering.best import BestNeighbours, Neighbours, pack, unpack
from datasets.clustering.lists import Lists, Visits, build_lists, k_means, number_of_lists
from datasets.clustering.search import ExactSearch, ListSearch, Search, true_neighbours
from datasets.clustering.unfinished import Unfinished
from datasets.clustering.vectors import Vectors
from datasets.clustering.visits import planned_visits
from datasets.progress import tracked

METHODS = ("auto", "exact", "lists", "faiss")
# Up to so many images all products are cheap: 20 seconds of a core; on a GPU minutes.
EXACT_BELOW = {"cpu": 50_000, "cuda": 5_000_000}

_BLOCK = {"cpu": 2**12, "cuda": 2**14}  # rows of a product; its columns are as many, or the members of a list


class SearchSettings(NamedTuple):
    """How neighbours are searched.

    Attributes:
        num_lists: of `lists` and `faiss`; None: as `number_of_lists` says.
        probe: lists that each image visits; more find more edges. None: as many as `planned_visits` says; of `faiss`
            FAISS_PROBE.
        seed: of the lists; they and the result are a function of it.
        device: of the products; None: where the embeddings are.
        rank, world_size: with several ranks each does every world_size-th portion of `exact` and `lists`;
            `merge_neighbours` joins what they found, the same for any number of them.
    """

    num_lists: int | None = None
    probe: int | None = None
    seed: int = 0
    device: torch.device | None = None
    rank: int = 0
    world_size: int = 1


def neighbours(
    embeddings: NDArray[np.floating] | Tensor,
    k: int,
    threshold: float,
    method: str = "auto",
    settings: SearchSettings | None = None,
    unfinished: Unfinished | None = None,
) -> Neighbours:
    """Return the k nearest neighbours of every image among those whose cosine reaches the threshold.

    An image is no neighbour of itself, by index: duplicates are neighbours. Of equal cosines the lower index is nearer.
    `exact` multiplies all pairs. `lists` multiplies the members of each k-means list with the images that visit it and
    unites both directions: an edge is found if one of its images visits the other's list. Its memory beside the
    embeddings is 8 k + 10 probe bytes an image and about 1 GB.

    Args:
        embeddings: float16 or float32 [N, D] of unit length, of numpy (a memory map too) or torch.
        k: >= 1; at most N - 1 of them can be there.
        threshold: least cosine, inclusive; -1: none.
        method: of METHODS; "auto" is exact up to EXACT_BELOW images of the device, else lists.
        settings: see `SearchSettings`.
        unfinished: keeps what has been found, so that an interrupted search goes on; not for faiss.
    Returns:
        `Neighbours` of numpy arrays [N, k], which say how many lists were visited.
    Raises:
        TypeError, ValueError: if the embeddings are none as above, or a number is out of range.
    """
    settings = settings or SearchSettings()
    _check(k, threshold, method, settings)
    vectors = Vectors(embeddings, settings.device)
    method = chosen_method(method, vectors.num, vectors.device)
    num_lists = min(settings.num_lists or number_of_lists(vectors.num), max(1, vectors.num))
    if method == "faiss":
        from datasets.clustering.faiss_index import faiss_neighbours

        return faiss_neighbours(vectors, k, threshold, num_lists, settings.probe)
    block = _BLOCK[vectors.device.type]
    best = BestNeighbours(vectors.num, k, threshold)
    if method == "exact":
        return _run(ExactSearch(vectors, block), best, settings, unfinished)
    lists = None if unfinished is None else unfinished.lists
    if lists is None:
        lists = _lists(vectors, num_lists, k, threshold, settings)
        if unfinished is not None:
            unfinished.keep_lists(lists)
    found = _run(ListSearch(vectors, lists, block), best, settings, unfinished)
    return found._replace(visits=lists.visits)


def chosen_method(method: str, num_images: int, device: torch.device) -> str:
    """Return what "auto" stands for, other methods as they are."""
    if method != "auto":
        return method
    return "exact" if num_images <= EXACT_BELOW[device.type] else "lists"


def merge_neighbours(parts: Sequence[Neighbours]) -> Neighbours:
    """Return the neighbours that several ranks found together, [N, k] each."""
    keys = np.concatenate(
        [np.where(p.indices < 0, np.iinfo(np.int64).min, pack(p.similarities, p.indices)) for p in parts], axis=1
    )
    keys.sort(axis=1)
    merged = unpack(np.ascontiguousarray(keys[:, : -parts[0].indices.shape[1] - 1 : -1]))
    return merged._replace(visits=parts[0].visits)


def edge_recall(
    embeddings: NDArray[np.floating] | Tensor,
    found: Neighbours,
    threshold: float,
    num_queries: int = 2000,
    seed: int = 0,
    device: torch.device | None = None,
) -> float:
    """Return the share of the true neighbours of some images that were found, measured by exact search.

    Args:
        embeddings: as of `neighbours`.
        found: its result; true neighbours are the k nearest whose cosine reaches the threshold.
        threshold: least cosine.
        num_queries: images that are searched, drawn at random; all if there are fewer.
        seed: draws them.
        device: of the products; None: where the embeddings are.
    Returns:
        In [0, 1]; NaN if no image drawn has such a neighbour.
    """
    vectors = Vectors(embeddings, device)
    queries = np.sort(np.random.default_rng(seed).permutation(vectors.num)[:num_queries])
    true = true_neighbours(vectors, queries, found.indices.shape[1], threshold).indices
    hits = (true[:, :, None] == found.indices[queries][:, None, :]).any(axis=2) & (true >= 0)
    num_true = int((true >= 0).sum())
    return float(hits.sum() / num_true) if num_true else float("nan")


def _lists(vectors: Vectors, num_lists: int, k: int, threshold: float, settings: SearchSettings) -> Lists:
    centers = k_means(vectors, num_lists, settings.seed)
    if settings.probe is None:
        visits = planned_visits(vectors, centers, k, threshold, settings.seed)
    else:
        visits = Visits(num_lists, min(settings.probe, num_lists))
    return build_lists(vectors, centers, visits, settings.rank > 0)


def _run(search: Search, best: BestNeighbours, settings: SearchSettings, unfinished: Unfinished | None) -> Neighbours:
    done = 0
    if unfinished is not None and unfinished.keys is not None:
        best.restore(unfinished.keys)
        done = unfinished.num_done
    portions = range(settings.rank, search.num_portions, settings.world_size)
    for number, portion in enumerate(_shown(portions, settings.rank > 0)):
        if number < done:
            continue
        search.run(portion, best)
        if unfinished is not None:
            unfinished.keep(best, number + 1)
    return best.result()


def _shown(portions: range, hidden: bool) -> Iterator[int]:
    yield from tracked(portions, "neighbours", hidden=hidden, transient=True)


def _check(k: int, threshold: float, method: str, settings: SearchSettings) -> None:
    if k < 1:
        raise ValueError(f"neighbours: k must be at least 1, got {k}")
    if not -1 <= threshold <= 1:
        raise ValueError(f"neighbours: the threshold is a cosine in [-1, 1], got {threshold}")
    if method not in METHODS:
        raise ValueError(f"neighbours: {method!r} is not one of {', '.join(METHODS)}")
    for name, number in (("probe", settings.probe), ("num_lists", settings.num_lists)):
        if number is not None and number < 1:
            raise ValueError(f"neighbours: {name} must be at least 1, got {number}")
    if not 0 <= settings.rank < settings.world_size:
        raise ValueError(f"neighbours: rank must be in [0, {settings.world_size}), got {settings.rank}")
