"""Products of two blocks of vectors, and what of them matters to the neighbours: threshold first, both directions."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from datasets.clustering.best import BestNeighbours

Int64Array = NDArray[np.int64]
# Says which of pairs (row's image, column's image), [P] each, this block gives; another block gives the rest.
Owns = Callable[[Int64Array, Int64Array], NDArray[np.bool_]]

_MANY = 8  # times k for each row and column: so many hits are worth finding the k-th largest first


def join(best: BestNeighbours, products: Tensor, rows: Int64Array, columns: Int64Array, owns: Owns) -> None:
    """Add to `best` what reaches the threshold among the products of two blocks of images, in both directions.

    Args:
        best: gets the pairs.
        products: float32 [R, C] cosines.
        rows, columns: int64 [R] and [C], the images; an image is no neighbour of itself.
        owns: leaves out pairs that another block gives.
    """
    floor = min(float(best.floors[rows].min()), float(best.floors[columns].min()))
    hits = (products >= floor).view(-1).nonzero().view(-1)
    k = best.keys.shape[1]
    if len(hits) > _MANY * k * (len(rows) + len(columns)):
        _join_many(best, products, rows, columns, owns)
        return
    similarities = products.reshape(-1)[hits].cpu().numpy()
    row, column = np.divmod(hits.cpu().numpy(), len(columns))
    _add(best, rows[row], columns[column], similarities, owns)


def _join_many(best: BestNeighbours, products: Tensor, rows: Int64Array, columns: Int64Array, owns: Owns) -> None:
    """Join where nearly everything reaches the threshold: only what is among the k largest of its row or column."""
    own = torch.from_numpy(rows[:, None] == columns).to(products.device)
    products = products.masked_fill(own, -torch.inf)
    for values, first, second in ((products, rows, columns), (products.T, columns, rows)):
        floors = torch.from_numpy(best.floors[first]).to(values.device)
        k = best.keys.shape[1]
        if k <= values.shape[1]:
            floors = torch.maximum(floors, values.topk(k, dim=1).values[:, -1])
        row, column = (values >= floors[:, None]).nonzero().T
        similarities = values[row, column].cpu().numpy()
        a, b = first[row.cpu().numpy()], second[column.cpu().numpy()]
        # `owns` asks for the row's image first.
        kept = owns(a, b) if first is rows else owns(b, a)
        best.add(a[kept], b[kept], similarities[kept])


def _add(
    best: BestNeighbours, first: Int64Array, second: Int64Array, similarities: NDArray[np.float32], owns: Owns
) -> None:
    kept = owns(first, second)
    first, second, similarities = first[kept], second[kept], similarities[kept]
    best.add(first, second, similarities)
    best.add(second, first, similarities)
