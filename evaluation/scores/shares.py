"""What can be seen of the faces of pairs: the numbers that say how far a score can be trusted."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evaluation.protocols.checks import IntArray
from evaluation.scores.descriptions import FaceDescriptions
from evaluation.scores.triangle import pair_places

_CHUNK = 2**16  # pairs whose shares are held at a time


class Shares(NamedTuple):
    """Shares of the faces of N pairs that are visible, float64 [N] in [0, 1]."""

    first: NDArray[np.float64]
    second: NDArray[np.float64]
    both: NDArray[np.float64]  # where the same cell is visible in both: the mean of the product


def shares_of(
    first: FaceDescriptions, second: FaceDescriptions, places: IntArray | None = None
) -> Iterator[tuple[slice, Shares]] | None:
    """Return (which of the pairs, their shares), chunk by chunk; None where visibility is not known.

    Args:
        first, second: descriptions of the same B images, or of two versions of them.
        places: [N, 2], an image of first and one of second for each pair; None: all pairs i < j, in the order of
            np.triu_indices(B, 1).
    """
    own, others = _visible_cells(first), _visible_cells(second)
    if own is None or others is None:
        return None
    return _of_all(own, others) if places is None else _of_list(own, others, places)


def image_shares(*sides: FaceDescriptions) -> NDArray[np.float32] | None:
    """Return the visible share of each image on each side, [S, B], over its views; None where visibility is not known.

    Args:
        sides: descriptions of B images each.
    """
    seen = [cells.mean(1) for side in sides if (cells := _visible_cells(side)) is not None]
    return torch.stack(seen).numpy() if len(seen) == len(sides) else None


def _visible_cells(descriptions: FaceDescriptions) -> Tensor | None:
    """Return the visibility of all cells of all views, [B, K] float32 on the CPU."""
    seen = [view.visibility for view in descriptions.views]
    if not seen or any(visibility is None for visibility in seen):
        return None
    return torch.cat([visibility.flatten(1).float().cpu() for visibility in seen if visibility is not None], dim=1)


def _of_list(own: Tensor, others: Tensor, places: IntArray) -> Iterator[tuple[slice, Shares]]:
    for start in range(0, len(places), _CHUNK):
        chunk = torch.from_numpy(places[start : start + _CHUNK])
        a, b = own[chunk[:, 0]], others[chunk[:, 1]]
        yield slice(start, start + len(chunk)), _as_shares(a.mean(1), b.mean(1), (a * b).mean(1))


def _of_all(own: Tensor, others: Tensor) -> Iterator[tuple[slice, Shares]]:
    num_images, num_cells = own.shape
    rows_at_a_time = max(1, _CHUNK // num_images)
    for start in range(0, num_images - 1, rows_at_a_time):
        rows = torch.arange(start, min(start + rows_at_a_time, num_images - 1))
        both = own[rows] @ others.T / num_cells
        above = rows[:, None] < torch.arange(num_images)
        mean_first, mean_second = own[rows].mean(1), others.mean(1)
        columns = (mean_first[:, None].expand_as(both), mean_second.expand_as(both), both)
        first_place = int(pair_places(start, np.array(start + 1), num_images))
        yield slice(first_place, first_place + int(above.sum())), _as_shares(*(column[above] for column in columns))


def _as_shares(*columns: Tensor) -> Shares:
    return Shares(*(column.double().numpy() for column in columns))
