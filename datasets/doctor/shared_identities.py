"""Which people of two data sets are probably the same, by the mean embeddings of their images."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

_ROWS = 2**11


class SharedIdentity(NamedTuple):
    """A person of either set and the cosine of their means."""

    first: int
    second: int
    cosine: float


def shared_identities(
    means_a: NDArray[np.floating], means_b: NDArray[np.floating], threshold: float
) -> list[SharedIdentity]:
    """Return the pairs of people, one of each set, that are nearest to each other and reach the threshold.

    Nearest both ways: nobody is in two pairs. Of equal cosines the lower number is nearer. It is a list to look at:
    siblings and mislabeled images are on it too. Memory beside the means is 8,192 bytes for each person of b.

    Args:
        means_a, means_b: floating [A, D] and [B, D], mean embedding of each person, of any length above 0.
        threshold: least cosine, in [-1, 1]. It depends on the network: above the highest cosine between two people who
            are known to differ.
    Returns:
        Pairs by falling cosine.
    Raises:
        ValueError: if shapes disagree, a mean is 0 or not finite, or the threshold is no cosine.
    """
    if not -1 <= threshold <= 1:
        raise ValueError(f"shared_identities: the threshold is a cosine in [-1, 1], got {threshold}")
    first, second = _unit(means_a, "the first set"), _unit(means_b, "the second set")
    if first.shape[1] != second.shape[1]:
        raise ValueError(
            f"shared_identities: both sets need means of one length, got {first.shape[1]} and {second.shape[1]}; "
            "they come from different networks"
        )
    if not len(first) or not len(second):
        return []
    nearest, cosines = np.empty(len(first), np.int64), np.empty(len(first), np.float32)
    nearest_back, best_back = np.zeros(len(second), np.int64), np.full(len(second), -np.inf, np.float32)
    for start in range(0, len(first), _ROWS):
        products = first[start : start + _ROWS] @ second.T
        rows = np.arange(len(products))
        nearest[start : start + _ROWS] = products.argmax(axis=1)
        cosines[start : start + _ROWS] = products[rows, nearest[start : start + _ROWS]]
        best = products.argmax(axis=0)
        values = products[best, np.arange(len(second))]
        is_better = values > best_back
        nearest_back[is_better], best_back[is_better] = best[is_better] + start, values[is_better]
    people = np.flatnonzero((nearest_back[nearest] == np.arange(len(first))) & (cosines >= np.float32(threshold)))
    people = people[np.argsort(-cosines[people], kind="stable")]
    pairs = zip(people.tolist(), nearest[people].tolist(), cosines[people].tolist(), strict=True)
    return [SharedIdentity(*pair) for pair in pairs]


def _unit(means: NDArray[np.floating], which: str) -> NDArray[np.float32]:
    rows = np.asarray(means, np.float32)
    if rows.ndim != 2:
        raise ValueError(f"shared_identities: the means of {which} must be [people, D], got {list(rows.shape)}")
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    wrong = np.flatnonzero(~(np.isfinite(lengths) & (lengths > 0)))
    if len(wrong):
        raise ValueError(
            f"shared_identities: {len(wrong)} means of {which} are 0 or not finite, the first is that of person "
            f"{wrong[0]}"
        )
    return rows / lengths
