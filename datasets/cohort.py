"""A cohort: faces of training people, clean and behind occluders, whose impostor pairs say what scores mean."""

from __future__ import annotations

import logging
import zlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from datasets.faces.images import UnreadableImageError
from datasets.sample import Image, LabeledFaces
from transforms import occlude_all

logger = logging.getLogger(__name__)
SIZE = 256  # images: 32,640 pairs of each kind
_STREAM = zlib.crc32(b"cohort")


class Cohort(NamedTuple):
    """M faces; of as many people as there are, since every image of a further one adds M impostor pairs."""

    clean: Image  # uint8 [M, 112, 112, 3] RGB
    occluded: Image  # the same behind an occluder each
    labels: NDArray[np.int64]  # [M]


def draw_cohort(dataset: LabeledFaces, occluders: Sequence[str], seed: int, size: int = SIZE) -> Cohort | None:
    """Draw the images, one of each person before a second one of any; unreadable ones are passed over.

    Args:
        dataset: training people.
        occluders: names to draw from, at least one.
        seed: >= 0; every draw follows it.
        size: images, at most; fewer where there are fewer.
    Returns:
        The cohort; None if no image can be read, which a warning says.
    """
    rng = np.random.default_rng((seed, _STREAM))
    order = rng.permutation(len(dataset))
    firsts = np.sort(np.unique(dataset.labels[order], return_index=True)[1])
    is_first = np.zeros(len(order), dtype=bool)
    is_first[firsts] = True
    images, places = [], []
    for place in np.concatenate([order[is_first], order[~is_first]]).tolist():
        try:
            images.append(dataset.read(place))
        except UnreadableImageError:
            continue
        places.append(place)
        if len(images) == size:
            break
    if not images:
        logger.warning("none of the training images can be read: scores are not normalized by what is visible")
        return None
    draws = (np.random.default_rng((seed, _STREAM, number)) for number in range(len(images)))
    clean = np.stack(images)
    return Cohort(clean, occlude_all(clean, draws, occluders)[0], dataset.labels[places])
