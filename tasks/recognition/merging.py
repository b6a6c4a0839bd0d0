"""People who are in several data sets: what the matcher may conclude of two images of different sets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


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
