"""Two views of a place in the plan: of one image, or of an image and its partner."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset, Sampler

from datasets.faces.view import ImageFunction, TrainingView
from datasets.sample import ArrayBatch, FaceDataset, Image, Sample, SampleKey
from datasets.sampling.samplers import PlannedSampler

# epoch -> the partner of every image, int64 [N]; itself where it has none. None: every image is its own partner.
Partners = Callable[[int], NDArray[np.int64] | None]


class PairKey(NamedTuple):
    """Which image the query is made of, and which the second view.

    Attributes:
        key: of the query.
        partner: the image of the second view; the query's own where there is no other.
    """

    key: SampleKey
    partner: int


class PairedBatches(Sampler[list[PairKey]]):
    """Batch sampler for a `DataLoader` over a `PairedView`: the keys of a sampler, each with its partner.

    Every image that the plan holds is a query once; partners come on top. They are asked for when the first batch of an
    epoch is, of the epoch that the plan is for.

    Attributes:
        sampler: the planned sampler; Lightning sets the epoch on it.
    """

    def __init__(self, sampler: PlannedSampler, partners: Partners) -> None:
        self.sampler = sampler
        self._partners = partners

    def __iter__(self) -> Iterator[list[PairKey]]:
        epoch, partners = None, None
        for keys in self.sampler.keys():
            if keys[0].epoch != epoch:
                epoch = keys[0].epoch
                partners = self._partners(epoch)
            yield [PairKey(key, key.index if partners is None else int(partners[key.index])) for key in keys]

    def __len__(self) -> int:
        return len(self.sampler)


class PairedView(Dataset[Sample[Image, int]]):
    """Batches whose `second` is another view of the same images, or a view of their partners.

    Both views are drawn by one transform, with numbers of their own; see `TrainingView` for what they follow from and
    for images that cannot be read.

    Args:
        dataset: where images are read.
        transform: image uint8 [112, 112, 3] RGB, numpy Generator -> View.
        seed: >= 0.
    """

    def __init__(self, dataset: FaceDataset, transform: ImageFunction, seed: int) -> None:
        self._first, self._second = (TrainingView(dataset, transform, seed) for _ in range(2))

    def __len__(self) -> int:
        return len(self._first)

    def __getitems__(self, keys: Sequence[PairKey]) -> ArrayBatch:
        """Return the samples of one or more keys in arrays; raises as `TrainingView` does."""
        second = [pair.key._replace(index=pair.partner, view=1) for pair in keys]
        return self._first.__getitems__([pair.key for pair in keys])._replace(second=self._second.__getitems__(second))
