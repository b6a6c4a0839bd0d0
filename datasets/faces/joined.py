"""Several data sets laid end to end."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from datasets.sample import Image, LabeledFaces


class JoinedFaces:
    """Data sets end to end, as if they were one: for what looks at images and asks for no labels that mean a person.

    Labels go on from set to set, and an identity is called set/identity: the same person in two sets is two of them.

    Args:
        sets: by name, in the order of their numbers.
    """

    def __init__(self, sets: Mapping[str, LabeledFaces]) -> None:
        self._sets = [*sets.values()]
        self._starts = [0, *accumulate(len(each) for each in self._sets)]
        first_labels = [0, *accumulate(len(each.class_names) for each in self._sets)]
        parts = [each.labels + first for each, first in zip(self._sets, first_labels, strict=False)]
        self.labels: NDArray[np.int64] = np.concatenate(parts)
        self.class_names = [f"{set_name}/{name}" for set_name, each in sets.items() for name in each.class_names]

    def __len__(self) -> int:
        return self._starts[-1]

    def read(self, index: int) -> Image:
        """Return uint8 [112, 112, 3] RGB; raises UnreadableImageError."""
        number = bisect_right(self._starts, index) - 1
        return self._sets[number].read(index - self._starts[number])
