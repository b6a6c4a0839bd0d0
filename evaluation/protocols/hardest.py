"""Which pairs a method gets most wrong."""

import numpy as np
from numpy.typing import ArrayLike

from evaluation.protocols.checks import check_issame, check_scores


def hardest(scores: ArrayLike, issame: ArrayLike, count: int) -> dict[str, list[int]]:
    """Return the places of the genuine pairs with the lowest and the impostor pairs with the highest scores.

    Args:
        scores: [N] floating, larger = more alike.
        issame: bool [N].
        count: of each kind, at most.
    Returns:
        {"genuine": places, "impostor": places}, hardest first; of equal scores the first place comes first.
    Raises:
        ValueError: on disagreeing shapes or NaN scores.
    """
    labels = check_issame("hardest", issame)
    values = check_scores("hardest", scores, labels.size)
    genuine, impostor = np.flatnonzero(labels), np.flatnonzero(~labels)
    return {
        "genuine": genuine[np.argsort(values[genuine], kind="stable")[:count]].tolist(),
        "impostor": impostor[np.argsort(-values[impostor], kind="stable")[:count]].tolist(),
    }
