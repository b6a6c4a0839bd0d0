"""The people of embedded images: what they are called, and the mean of each."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.embedding.folder import Embeddings, read_names

_ROWS = 2**14


class People(NamedTuple):
    """P people.

    Attributes:
        names: of their folders, P.
        means: float32 [P, D], sum of their embeddings: only its direction means anything.
    """

    names: list[str]
    means: NDArray[np.float32]


def people_of(embedded: Embeddings) -> People:
    """Return the people of a folder of people, or of a cache of one, that was embedded.

    Raises:
        ValueError: one line: if nobody says who is who, or the names of the images do not: those of a record file are
            places, and what a training calls its people is not known.
    """
    if embedded.labels is None:
        raise ValueError(f"{embedded.folder}: nobody says who is who; embed a folder of people")
    folders = [name.partition("/") for name in read_names(embedded.folder, len(embedded))]
    if not all(slash for _, slash, _ in folders):
        raise ValueError(f"{embedded.folder}: its images do not lie in folders of people, which give them their names")
    labels, place, which = np.unique(embedded.labels, return_index=True, return_inverse=True)
    names = [folders[first][0] for first in place.tolist()]
    if len(set(names)) < len(names) or any(
        names[person] != folder for person, (folder, _, _) in zip(which.tolist(), folders, strict=True)
    ):
        raise ValueError(f"{embedded.folder}: labels and folders of people disagree; embed them anew")
    means = np.zeros((len(labels), embedded.embeddings.shape[1]), np.float32)
    for start in range(0, len(embedded), _ROWS):
        rows = slice(start, start + _ROWS)
        np.add.at(means, which[rows], np.asarray(embedded.embeddings[rows], np.float32))
    return People(names, means)
