"""Normalized scores of pairs: what makes those of hidden and of clean faces comparable."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from evaluation.protocols.normalization import ScoreNormalization
from evaluation.scores.descriptions import FaceDescriptions
from evaluation.scores.shares import grid_shares, shares_of

_CELLS = 2**18  # scores of a search whose shares are held at a time


class Sides(NamedTuple):
    """Descriptions of the images of N pairs, as they were compared."""

    first: FaceDescriptions
    second: FaceDescriptions
    places: NDArray[np.int64] | None  # int64 [N, 2] of the pairs in them; None: all, as np.triu_indices has them


def comparable_scores(
    scores: Mapping[str, NDArray[np.float32]],
    sides: Sides,
    normalization: ScoreNormalization,
    matched: NDArray[np.bool_] | None = None,
) -> dict[str, NDArray[np.float32]]:
    """Return normalized scores [N] by method, "combined" among them where there are two matchers.

    Args:
        scores: by matcher, [N].
        sides: what was compared; where it has no visibility the scores are returned as they came.
        normalization: of the model that described.
        matched: bool [N], which pairs the matcher saw; the others get its lowest score, as before. None: all.
    """
    found: dict[str, NDArray[np.float32]] = {}
    for chosen, shares in shares_of(*sides) or ():
        for name, values in normalization.apply({name: of[chosen] for name, of in scores.items()}, shares).items():
            found.setdefault(name, np.empty(len(scores["adaface"]), np.float32))[chosen] = values
    if found and matched is not None and not matched.all():
        found["qaconv"][~matched] = found["qaconv"][matched].min()
        for chosen, shares in shares_of(*sides) or ():
            parts = {name: found[name][chosen].astype(np.float64) for name in scores}
            found["combined"][chosen] = normalization.combine(parts, shares)
    return found or dict(scores)


def comparable_search(
    scores: NDArray[np.float32],
    probes: NDArray[np.float32],
    gallery: NDArray[np.float32],
    normalization: ScoreNormalization,
) -> NDArray[np.float32]:
    """Return the normalized scores [P, G] of the embeddings of probes with those of a gallery.

    Args:
        scores: [P, G].
        probes, gallery: visibility of the cells of all views of each image, [P, K] and [G, K].
        normalization: of the model that described; what it says of the embedding alone counts.
    """
    of_embedding = normalization.alone("adaface")
    found = np.empty(scores.shape, np.float32)
    num_rows = max(1, _CELLS // scores.shape[1])
    for start in range(0, len(scores), num_rows):
        rows = slice(start, start + num_rows)
        shares = grid_shares(probes[rows], gallery)
        values = of_embedding.apply({"adaface": scores[rows].ravel()}, shares)["adaface"]
        found[rows] = values.reshape(-1, scores.shape[1])
    return found
