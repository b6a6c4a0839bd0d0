"""Training images: read, replaced where unreadable, augmented."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from datasets.images import UnreadableImageError
from datasets.sample import Draw, FaceDataset, Image, Sample
from transforms import View


class TrainingView(Dataset[Sample[Image, int]]):
    """Augmented samples of a data set, addressed by `Draw`.

    The numbers of an augmentation are keyed by (seed, epoch, position), so that they depend neither on the worker, nor
    on the rank, nor on whether the run was resumed: a counter-based generator (Philox) has the seed as its key and
    begins at the counter (0, position, epoch, 0). Moving the counter costs a tenth of making a generator.

    An unreadable image is replaced by another image of its identity: the next readable one after it, going round; where
    the identity has none, by the next of any identity, with that one's label. Its position is then in
    `Sample.unreadable`.

    Args:
        dataset: where images are read.
        transform: (image uint8 [112, 112, 3] RGB, numpy Generator) -> View.
        seed: >= 0.
        dataset_id: written into every sample.
    """

    def __init__(
        self,
        dataset: FaceDataset,
        transform: Callable[[Image, np.random.Generator], View],
        seed: int,
        dataset_id: int = 0,
    ) -> None:
        self.dataset = dataset
        self.transform = transform
        self.dataset_id = dataset_id
        self._rng = np.random.Generator(np.random.Philox(seed))
        self._state = self._rng.bit_generator.state

    @property
    def labels(self) -> NDArray[np.int64]:
        """int64 [N], as of the data set."""
        return self.dataset.labels

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, draw: Draw) -> Sample[Image, int]:
        """Return the augmented sample of a draw.

        Raises:
            UnreadableImageError: if no image of the data set can be read.
        """
        index, image = self._read(draw.index)
        view = self.transform(image, self._numbers_of(draw))
        label = int(self.dataset.labels[index])
        unreadable = -1 if index == draw.index else draw.index
        return Sample(view.image, label, self.dataset_id, view.visibility, index, unreadable)

    def _numbers_of(self, draw: Draw) -> np.random.Generator:
        """Return the generator at the first number of a draw; it is the same object each time."""
        self._state["state"]["counter"][1:3] = draw.position, draw.epoch
        self._rng.bit_generator.state = self._state
        return self._rng

    def _read(self, index: int) -> tuple[int, Image]:
        """Return the first readable image, starting with `index`, and its position."""
        first: UnreadableImageError | None = None
        for candidate in self._candidates(index):
            try:
                return candidate, self.dataset.read(candidate)
            except UnreadableImageError as error:
                first = first or error
        assert first is not None
        reason = f"{first.reason}; nor can any other of the {len(self)} images be read"
        raise UnreadableImageError(first.path, reason) from first

    def _candidates(self, index: int) -> Iterator[int]:
        """Yield every position: `index`, the others of its identity, all others, each going round from `index`."""
        yield index  # before any search: nearly every image is readable
        labels = self.dataset.labels
        others = np.roll(np.arange(len(labels)), -index)[1:]
        same = labels[others] == labels[index]
        yield from others[same].tolist()
        yield from others[~same].tolist()
