"""Nearest neighbors that vote for a label, weighted by how near they are."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

_QUERY_ROWS = 1024
_SCORES = 2**26  # similarities, or scores of classes, of a chunk of queries


class KnnVote(NamedTuple):
    """Answers of the vote.

    Attributes:
        predicted: int64 [Q], the label with the largest score; of equal ones the lowest.
        scores: float64 [Q, C], sum of the weights of each label's neighbors; C = largest label + 1.
    """

    predicted: NDArray[np.int64]
    scores: NDArray[np.float64]


def knn_vote(
    queries: ArrayLike, references: ArrayLike, labels: ArrayLike, k: int = 200, temperature: float = 0.07
) -> KnnVote:
    """Let the k nearest references of each query vote for their label with weight exp(cosine / temperature).

    Args:
        queries: [Q, D] floating, of unit length.
        references: [N, D] likewise.
        labels: int64 [N] >= 0, of the references.
        k: neighbors, at least 1; N where there are fewer.
        temperature: > 0.
    Raises:
        ValueError: if shapes or values are others.
    Reference: Wu et al., "Unsupervised Feature Learning via Non-Parametric Instance Discrimination", CVPR 2018,
        arXiv:1805.01978, Sec. 3.4.
    """
    rows, known = torch.as_tensor(np.asarray(queries)), torch.as_tensor(np.asarray(references))
    people = torch.as_tensor(np.asarray(labels))
    if rows.ndim != 2 or known.ndim != 2 or rows.shape[1] != known.shape[1] or people.shape != known.shape[:1]:
        shapes = f"{list(rows.shape)}, {list(known.shape)}, {list(people.shape)}"
        raise ValueError(f"knn_vote: queries [Q, D], references [N, D] and labels [N] are needed, got {shapes}")
    if not len(people) or int(people.min()) < 0 or k < 1 or not temperature > 0:
        raise ValueError(
            f"knn_vote: labels >= 0 of at least one reference, k >= 1 and temperature > 0 are needed, got "
            f"{len(people)} references, k {k}, temperature {temperature}"
        )
    wide = torch.promote_types(torch.promote_types(rows.dtype, known.dtype), torch.float32)
    rows, known, people = rows.to(wide), known.to(wide), people.long()
    scores = torch.zeros(len(rows), int(people.max()) + 1, dtype=torch.float64)
    step = max(1, min(_QUERY_ROWS, _SCORES // len(known)))
    for start in range(0, len(rows), step):
        near = (rows[start : start + step] @ known.T).topk(min(k, len(known)), dim=1)
        weights = (near.values.double() / temperature).exp()
        scores[start : start + step].scatter_add_(1, people[near.indices], weights)
    return KnnVote(scores.argmax(dim=1).numpy(), scores.numpy())
