"""All-pairs searches by blocks: which products are made, in which order, and by which rank."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from datasets.clustering.best import BestNeighbours, Neighbours
from datasets.clustering.joins import Owns, join
from datasets.clustering.lists import Lists, Visitors
from datasets.clustering.vectors import Vectors

Int64Array = NDArray[np.int64]

_COLUMNS = 2**14  # of a product with the images that `true_neighbours` searches


class Search(Protocol):
    """Work in portions that may be done in any order and by any rank: each pair belongs to one of them."""

    num_portions: int

    def run(self, portion: int, best: BestNeighbours) -> None:
        """Add the pairs of a portion."""
        ...


class ExactSearch:
    """Every pair: the products of all blocks on and above the diagonal; a portion is a row of blocks.

    Args:
        vectors: what is searched.
        block: rows and columns of a product.
    """

    def __init__(self, vectors: Vectors, block: int) -> None:
        self._vectors, self._block = vectors, block
        self.num_portions = -(-vectors.num // block)

    def run(self, portion: int, best: BestNeighbours) -> None:
        """Add the pairs of a row of blocks."""
        num, block = self._vectors.num, self._block
        rows = np.arange(portion * block, min(num, (portion + 1) * block))
        first = self._vectors.rows(slice(rows[0], rows[-1] + 1))
        for start in range(portion * block, num, block):
            columns = np.arange(start, min(num, start + block))
            second = self._vectors.rows(slice(columns[0], columns[-1] + 1))
            join(best, first @ second.T, rows, columns, np.less)


class ListSearch:
    """The pairs of which one image visits the other's list; a portion is a list with its visitors.

    Args:
        vectors: what is searched.
        lists: of these vectors.
        block: visitors of a product.
    """

    def __init__(self, vectors: Vectors, lists: Lists, block: int) -> None:
        self._vectors, self._lists, self._block = vectors, lists, block
        self._visitors = Visitors(lists)
        self.num_portions = lists.num

    def run(self, portion: int, best: BestNeighbours) -> None:
        """Add the pairs of a list's members with its visitors."""
        columns = self._lists.members(portion)
        if not len(columns):
            return
        members = self._vectors.rows(columns).T
        visitors = self._visitors.of(portion)
        for rows in np.split(visitors, range(self._block, len(visitors), self._block)):
            join(best, self._vectors.rows(rows) @ members, rows, columns, self._owner(portion))

    def _owner(self, number: int) -> Owns:
        probes = self._lists.probes

        def owns(visitors: Int64Array, members: Int64Array) -> NDArray[np.bool_]:
            # Where the member visits the visitor's list too, the pair is met twice: in a block it is given once.
            is_met_twice = (probes[members] == probes[visitors, :1]).any(axis=1)
            return ~is_met_twice | (visitors < members)

        return owns


def true_neighbours(vectors: Vectors, queries: Int64Array, k: int, threshold: float) -> Neighbours:
    """Return the k nearest neighbours of some images whose cosine reaches the threshold, by exact search.

    Args:
        vectors: N unit vectors.
        queries: int64 [Q] of them.
        k, threshold: as of `neighbours`.
    Returns:
        `Neighbours` of arrays [Q, k].
    """
    best = BestNeighbours(len(queries), k, threshold)
    rows = vectors.rows(queries)
    for start in range(0, vectors.num, _COLUMNS):
        products = rows @ vectors.rows(slice(start, start + _COLUMNS)).T
        floors = torch.from_numpy(best.floors).to(products.device)
        row, column = (products >= floors[:, None]).nonzero().T
        image, other = row.cpu().numpy(), column.cpu().numpy() + start
        is_other = queries[image] != other
        best.add(image[is_other], other[is_other], products[row, column].cpu().numpy()[is_other])
        best.settle()
    return best.result()
