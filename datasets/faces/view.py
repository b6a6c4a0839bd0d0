"""Training images: read, replaced where unreadable, augmented."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from datasets.batch_memory import BatchMemory
from datasets.faces.images import UnreadableImageError
from datasets.random_streams import RandomStreams
from datasets.sample import ArrayBatch, Draw, FaceDataset, Image, Sample
from transforms import TrainingTransform, View, mirror
from transforms.view import check_image

ImageFunction = Callable[[Image, np.random.Generator], View]


class TrainingView(Dataset[Sample[Image, int]]):
    """Augmented samples of a data set, addressed by `Draw`.

    A sample is a function of its draw and the seed: it depends neither on the other draws of its batch, nor on the
    worker, nor on the rank, nor on whether the run was resumed (see `RandomStreams`).

    An unreadable image is replaced by another image of its identity: the next readable one after it, going round; where
    the identity has none, by the next of any identity, with that one's label. Its position is then in
    `Sample.unreadable`.

    Args:
        dataset: where images are read.
        transform: a TrainingTransform, or a function (image uint8 [112, 112, 3] RGB, numpy Generator) -> View, which
            leaves the image as it is.
        seed: >= 0.
        dataset_id: written into every sample.
    """

    def __init__(
        self, dataset: FaceDataset, transform: TrainingTransform | ImageFunction, seed: int, dataset_id: int = 0
    ) -> None:
        self.dataset = dataset
        self.dataset_id = dataset_id
        self._transform = transform if isinstance(transform, TrainingTransform) else _OnEveryImage(transform)
        self._streams = RandomStreams(seed)
        self._memory = BatchMemory()

    @property
    def labels(self) -> NDArray[np.int64]:
        """int64 [N], as of the data set."""
        return self.dataset.labels

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, draw: Draw) -> Sample[Image, int]:
        """Return the augmented sample of a draw; raises as `__getitems__` does."""
        image, label, dataset_id, visibility, index, unreadable = self.__getitems__([draw])
        assert visibility is not None
        return Sample(image[0], int(label[0]), int(dataset_id[0]), visibility[0], int(index[0]), int(unreadable[0]))

    def __getitems__(self, draws: Sequence[Draw]) -> ArrayBatch:
        """Return the augmented samples of one or more draws in arrays; a `DataLoader` asks for batches this way.

        Raises:
            UnreadableImageError: if no image of the data set can be read.
            TypeError, ValueError: if the data set gives anything but uint8 [112, 112, 3].
        """
        drawn, epochs, positions = map(list, zip(*draws, strict=True))
        mirrored, steps = self._transform.choose(self._streams.uniforms(epochs, positions))
        images, visibility = self._memory.take(len(draws))
        visibility.fill(1)
        used = self._place(drawn, mirrored.tolist(), images)
        for row in np.flatnonzero(steps.any(axis=1)).tolist():
            view = View(images[row], visibility[row])
            rng = self._streams.generator(epochs[row], positions[row])
            self._transform.alter(view, steps[row], rng)
        index = np.array(used)
        unreadable = [-1 if read == asked else asked for asked, read in zip(drawn, used, strict=True)]
        dataset_id = np.full(len(draws), self.dataset_id)
        return Sample(images, self.labels[index], dataset_id, visibility, index, np.array(unreadable))

    def _place(self, drawn: list[int], mirrored: list[bool], images: Image) -> list[int]:
        """Fill rows of `images` with what was drawn or its mirror image; return which images were read."""
        used = drawn.copy()
        for row, (index, is_mirrored) in enumerate(zip(drawn, mirrored, strict=True)):
            try:
                image = self.dataset.read(index)
            except UnreadableImageError as error:
                used[row], image = self._replace(index, error)
            check_image(image, "TrainingView")
            images[row] = mirror(image) if is_mirrored else image
        return used

    def _replace(self, index: int, error: UnreadableImageError) -> tuple[int, Image]:
        """Return the first readable image in place of the one at `index`, and its position."""
        for candidate in self._others(index):
            try:
                return candidate, self.dataset.read(candidate)
            except UnreadableImageError:
                continue
        reason = f"{error.reason}; nor can any other of the {len(self)} images be read"
        raise UnreadableImageError(error.path, reason) from error

    def _others(self, index: int) -> Iterator[int]:
        """Yield every other position: those of the identity, then all others, each going round from `index`."""
        labels = self.labels
        others = np.roll(np.arange(len(labels)), -index)[1:]
        same = labels[others] == labels[index]
        yield from others[same].tolist()
        yield from others[~same].tolist()


class _OnEveryImage:
    """A function of image and generator, in the form of a transform that alters every image."""

    def __init__(self, function: ImageFunction) -> None:
        self._function = function

    def choose(self, uniforms: NDArray[np.float32]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        num = len(uniforms)
        return np.zeros(num, bool), np.ones((num, 1), bool)

    def alter(self, view: View, steps: NDArray[np.bool_], rng: np.random.Generator) -> None:
        view.image[:], view.visibility[:] = self._function(view.image, rng)
