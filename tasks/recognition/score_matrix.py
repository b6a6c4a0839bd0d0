"""The one score matrix that a batch's matching losses read, and what may be concluded of its pairs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import losses
import qaconv
from config import Config
from ops import gather, gather_with_gradient, own_rank, world_size


class MergedPeople:
    """Who each label of each data set is, over all of them.

    Two images of different sets show different people, or the same, where this is known: one of both people is in the
    set of the other. Of all others it is not known, for nobody compared the sets.

    Args:
        numbers: by data set, in the order of their numbers, int64 [labels]: the same number for the same person, as
            `datasets.read_merged_identities` gives them.
    """

    def __init__(self, numbers: Mapping[str, NDArray[np.int64]]) -> None:
        parts = [*numbers.values()]
        self._starts = torch.from_numpy(np.cumsum([0, *map(len, parts)])[:-1])
        self._people = torch.from_numpy(np.concatenate(parts))
        self._is_in = torch.zeros(int(self._people.max()) + 1, len(parts), dtype=torch.bool)
        for number, people in enumerate(parts):
            self._is_in[torch.from_numpy(people), number] = True

    def people(self, labels: Tensor, dataset_ids: Tensor) -> Tensor:
        """Return the person [B] of labels [B] of data sets [B], int64 on the device of the labels."""
        starts, people = (table.to(labels.device) for table in (self._starts, self._people))
        found: Tensor = people[starts[dataset_ids] + labels]
        return found

    def known(self, rows: Side, columns: Side) -> Tensor:
        """Return whether it is known if images show one person, bool [B, G]: of one set, or one person is in both."""
        is_in = self._is_in.to(rows.people.device)
        of_rows, of_columns = is_in[rows.people][:, columns.dataset_ids], is_in[columns.people][:, rows.dataset_ids]
        return of_rows | of_columns.T


class Side(NamedTuple):
    """Images of a side: who they show and from which data set they are, int64 [B]."""

    people: Tensor
    dataset_ids: Tensor


class Images(NamedTuple):
    """One side of a score matrix."""

    maps: Tensor  # [B, C, h, w], unit length over C
    visibility: Tensor | None  # [B, 1, h, w] in [0, 1], 1 = visible
    labels: Tensor  # [B] int64, people of the data set, or of all where some are merged
    dataset_ids: Tensor  # [B] int64


class Columns(NamedTuple):
    """What the losses have to know of a gallery; both None where it is the batch itself, of one data set."""

    gallery_labels: Tensor | None
    is_self: Tensor | None  # or of two data sets: whether such two are one person is not known


class MatchedBatch(NamedTuple):
    """The one score matrix that a batch's matching losses read, [B, G], and what they have to know of its columns.

    Rows are the images of this rank, columns likewise, or where pairs cross ranks the images of all ranks.
    """

    scores: Tensor
    labels: Tensor  # [B] int64, of the rows
    columns: Columns
    mean: Callable[[Tensor], Tensor]  # of values [B], over the rows that have a positive and a negative


def pairs_cross_ranks(config: Config) -> bool:
    """Return whether the matcher's pairs are formed across ranks: asked for, or part of --check_mode."""
    return config.cross_rank_pairs or config.check_mode


def score_batch(
    matcher: qaconv.QAConv,
    config: Config,
    images: Images,
    several_sets: bool = False,
    merged: MergedPeople | None = None,
    others: Images | None = None,
) -> MatchedBatch:
    """Return the scores of a batch with itself, or with the images of all ranks: all must then call it together.

    `others` are what the columns show: other views of the same images, in the same order.

    Then the mean of a loss over the ranks is that of the global batch, also where they differ in how many rows have a
    positive and a negative, and the gradients that DDP averages are its gradients; the matcher's norms take the moments
    of the global batch. (Those of the backbone stay each rank's own.)

    Of two images of different data sets nothing is concluded, but for people who are known to be `merged`.
    """
    across_ranks = pairs_cross_ranks(config) and world_size() > 1
    columns_of = images if others is None else others
    gallery = _of_all_ranks(columns_of) if across_ranks else columns_of
    columns = _columns(images, gallery, several_sets, merged) if across_ranks or several_sets else Columns(None, None)
    scores = matcher(images.maps, gallery.maps, images.visibility, gallery.visibility, across_ranks)
    return MatchedBatch(scores, images.labels, columns, _row_mean(images.labels, columns, across_ranks))


def _of_all_ranks(images: Images) -> Images:
    # Cells travel with their channels together, as the net lays them out and the matcher reads them: no copies.
    maps = gather_with_gradient(images.maps.movedim(1, -1)).movedim(-1, 1)
    visibility = None if images.visibility is None else gather_with_gradient(images.visibility)
    return Images(maps, visibility, gather(images.labels), gather(images.dataset_ids))


def _columns(images: Images, gallery: Images, several_sets: bool, merged: MergedPeople | None) -> Columns:
    """Return the columns of a gallery in which the images come again, behind those of the ranks before."""
    first = own_rank() * len(images.labels) if len(gallery.labels) > len(images.labels) else 0
    places = torch.arange(len(gallery.labels), device=images.labels.device)
    apart = places == (first + places[: len(images.labels), None])
    if merged is not None:
        apart |= ~merged.known(Side(images.labels, images.dataset_ids), Side(gallery.labels, gallery.dataset_ids))
    elif several_sets:
        apart |= images.dataset_ids[:, None] != gallery.dataset_ids
    return Columns(gallery.labels, apart)


def _row_mean(labels: Tensor, columns: Columns, across_ranks: bool) -> partial[Tensor]:
    """Return values [B] -> their mean over the rows that have a positive and a negative; see `mean_over_valid`."""
    valid = losses.valid_rows(labels, *columns)
    if not across_ranks:
        return partial(losses.mean_over_valid, valid=valid)
    counts = gather(valid.sum()[None])
    return partial(losses.mean_over_valid, valid=valid, num_valid=counts.sum().clamp_min(1).double() / len(counts))
