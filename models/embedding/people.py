"""The people of embedded images: what they are called, the mean of each, and how far an image is from its own."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from datasets.progress import tracked
from models.embedding.folder import Embeddings, read_names

_ROWS = 2**14
_SCALE = 64.0  # of the logits: s of CosFace and ArcFace
_LOGITS = 2**24  # numbers at a time, of a block of images by all people


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
    labels, place, which = _by_person(embedded)
    folders = [name.partition("/") for name in read_names(embedded.folder, len(embedded))]
    if not all(slash for _, slash, _ in folders):
        raise ValueError(f"{embedded.folder}: its images do not lie in folders of people, which give them their names")
    names = [folders[first][0] for first in place.tolist()]
    if len(set(names)) < len(names) or any(
        names[person] != folder for person, (folder, _, _) in zip(which.tolist(), folders, strict=True)
    ):
        raise ValueError(f"{embedded.folder}: labels and folders of people disagree; embed them anew")
    return People(names, _sums(embedded, which, len(labels)))


def losses_among_people(embedded: Embeddings) -> NDArray[np.float64]:
    """Return how far each image is from being taken for its own person, float64 [N], at least 0; smaller is surer.

    The cross-entropy of 64 times the cosines to the means of all people, as a head without margin would have it whose
    classes begin there. Of its own person the image itself is left out: else those with few images would look easy.
    NaN for the only image of a person.

    Raises:
        ValueError: one line, if nobody says who is who.
    """
    labels, _, which = _by_person(embedded)
    sums = _sums(embedded, which, len(labels))
    lengths = np.linalg.norm(sums, axis=1)
    means = (sums / np.maximum(lengths, np.finfo(np.float32).tiny)[:, None]).T
    losses = np.empty(len(embedded))
    size = max(1, _LOGITS // len(labels))
    starts = range(0, len(embedded), size)
    for start in tracked(starts, "comparing images with people", len(starts)):
        people = which[start : start + size]
        images = np.asarray(embedded.embeddings[start : start + size], np.float32)
        rest = sums[people] - images
        with np.errstate(invalid="ignore"):
            own = (images * rest).sum(1) / np.linalg.norm(rest, axis=1)
        logits = images @ means
        logits[np.arange(len(images)), people] = own
        logits *= _SCALE
        highest = logits.max(1)
        total = np.exp(logits - highest[:, None]).sum(1, dtype=np.float64)
        losses[start : start + size] = np.log(total) + highest - _SCALE * own
    losses[np.bincount(which)[which] == 1] = np.nan
    return losses


def _by_person(embedded: Embeddings) -> tuple[NDArray[np.int64], NDArray[np.intp], NDArray[np.intp]]:
    """Return the labels that occur, the first image of each, and for every image the place of its label among them."""
    if embedded.labels is None:
        raise ValueError(f"{embedded.folder}: nobody says who is who; embed a folder of people")
    return np.unique(embedded.labels, return_index=True, return_inverse=True)


def _sums(embedded: Embeddings, which: NDArray[np.intp], people: int) -> NDArray[np.float32]:
    sums = np.zeros((people, embedded.embeddings.shape[1]), np.float32)
    for start in range(0, len(embedded), _ROWS):
        rows = slice(start, start + _ROWS)
        np.add.at(sums, which[rows], np.asarray(embedded.embeddings[rows], np.float32))
    return sums
