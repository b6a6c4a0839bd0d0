"""Rows of numbers that several packages judge in the same way."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def unit_rows(rows: NDArray[np.floating[Any]], what: str, of_each: str) -> NDArray[Any]:
    """Return rows [N, D] at unit length, in their own precision.

    Args:
        rows: floating [N, D].
        what: names caller and rows for an error, as "paired_views: embeddings of hr".
        of_each: what a row is of, as "image".
    Raises:
        ValueError: one line with the first row, if a length is 0 or not finite.
    """
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    wrong = np.flatnonzero(~(np.isfinite(lengths) & (lengths > 0)))
    if len(wrong):
        raise ValueError(
            f"{what}: {len(wrong)} of {len(rows)} are 0 or not finite, the first is that of {of_each} {wrong[0]}; find "
            "what produced it"
        )
    unit: NDArray[Any] = rows / lengths
    return unit
