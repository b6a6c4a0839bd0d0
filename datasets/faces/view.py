"""Training images: read, replaced where unreadable, augmented."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from datasets.batch_memory import BatchMemory
from datasets.faces.images import UnreadableImageError
from datasets.random_streams import RandomStreams
from datasets.sample import ArrayBatch, Image, LabeledFaces, Sample, SampleKey
from transforms import IMAGE_SIZE, TrainingTransform, View, mirror
from transforms.view import check_image

ImageFunction = Callable[[Image, np.random.Generator], View]
T = TypeVar("T")


class TrainingView(Dataset[Sample[Image, int]]):
    """Augmented samples of a data set, addressed by `SampleKey`.

    A sample is a function of its key and the seed: it depends neither on the other samples of its batch, nor on the
    worker, nor on the rank, nor on whether the run was resumed (see `RandomStreams`).

    An unreadable image is replaced by another image of its identity: the next readable one after it, going round; where
    the identity has none, by the next of any identity, with that one's label. Its position is then in
    `Sample.unreadable`.

    Args:
        dataset: where images are read.
        transform: a TrainingTransform, or a function (image uint8 [112, 112, 3] RGB, numpy Generator) -> View, which
            leaves the image as it is.
        seed: >= 0.
        second: likewise, what makes `Sample.second` of the same image, decoded once, with numbers of its own; None:
            there is no second view.
    """

    def __init__(
        self,
        dataset: LabeledFaces,
        transform: TrainingTransform | ImageFunction,
        seed: int,
        second: TrainingTransform | ImageFunction | None = None,
    ) -> None:
        self.dataset = dataset
        chosen = [transform] if second is None else [transform, second]
        self._transforms = [one if isinstance(one, TrainingTransform) else _OnEveryImage(one) for one in chosen]
        self._memories = [BatchMemory() for _ in chosen]
        self._streams = RandomStreams(seed)

    @property
    def labels(self) -> NDArray[np.int64]:
        """int64 [N], as of the data set."""
        return self.dataset.labels

    @property
    def num_views(self) -> int:
        """Views of every image: 2 with `Sample.second`, else 1."""
        return len(self._transforms)

    @property
    def second_size(self) -> int:
        """Side in pixels of the second views."""
        return IMAGE_SIZE

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: SampleKey) -> Sample[Image, int]:
        """Return the augmented sample of a key; raises as `__getitems__` does."""
        return _only(self.__getitems__([key]))

    def __getitems__(self, keys: Sequence[SampleKey]) -> ArrayBatch:
        """Return the augmented samples of one or more keys of view 0 in arrays; a `DataLoader` asks for batches so.

        Raises:
            UnreadableImageError: if no image of the data set can be read.
            TypeError, ValueError: if the data set gives anything but uint8 [112, 112, 3].
        """
        keys_of_views = [keys] if self.num_views == 1 else [keys, [key._replace(view=1) for key in keys]]
        drawn = [key.index for key in keys]
        pixels = [memory.take(len(keys)) for memory in self._memories]
        chosen = [
            transform.choose(self._streams.uniforms(of_view))
            for transform, of_view in zip(self._transforms, keys_of_views, strict=True)
        ]
        used = self._place(drawn, [images for images, _ in pixels], [mirrored.tolist() for mirrored, _ in chosen])
        index = np.array(used)
        dataset_id = np.array([key.dataset for key in keys])
        unreadable = np.array([-1 if read == asked else asked for asked, read in zip(drawn, used, strict=True)])
        views: list[ArrayBatch] = []
        for transform, of_view, (images, visibility), (_, steps) in zip(
            self._transforms, keys_of_views, pixels, chosen, strict=True
        ):
            visibility.fill(1)
            for row in np.flatnonzero(steps.any(axis=1)).tolist():
                view = View(images[row], visibility[row])
                transform.alter(view, steps[row], self._streams.generator(of_view[row]))
            views.append(Sample(images, self.labels[index], dataset_id, visibility, index, unreadable))
        return views[0] if self.num_views == 1 else views[0]._replace(second=views[1])

    def _place(self, drawn: list[int], targets: list[Image], mirrored: list[list[bool]]) -> list[int]:
        """Fill rows of each target with what was drawn or its mirror image; return which images were read."""
        used = drawn.copy()
        for row, index in enumerate(drawn):
            used[row], image = read_or_replace(self.dataset.read, self.labels, index)
            check_image(image, "TrainingView")
            for images, is_mirrored in zip(targets, mirrored, strict=True):
                images[row] = mirror(image) if is_mirrored[row] else image
        return used


class MixedView(Dataset[Sample[Image, int]]):
    """The samples of several views, addressed by `SampleKey`, whose `dataset` says which of them is meant.

    Every view has its own data set, transforms and label space; `Sample.dataset_id` tells the labels apart. A sample
    does not depend on the others of its batch.

    Args:
        views: in the order of their numbers; all of them with a second view of one size, or none.
    """

    def __init__(self, views: Sequence[TrainingView]) -> None:
        if len({view.num_views for view in views}) != 1:
            raise ValueError("MixedView: give at least one view, and all of them with a second transform or none")
        if len(sizes := {view.second_size for view in views}) != 1:
            raise ValueError(f"MixedView: the second views must have one size, got {sorted(sizes)} pixels")
        self.views = list(views)
        self._memories = [BatchMemory() for _ in range(views[0].num_views)]

    def __len__(self) -> int:
        return sum(map(len, self.views))

    def __getitem__(self, key: SampleKey) -> Sample[Image, int]:
        """Return the sample of a key; raises as `TrainingView` does."""
        return self.views[key.dataset][key]

    def __getitems__(self, keys: Sequence[SampleKey]) -> ArrayBatch:
        """Return the samples of one or more keys in arrays; raises as `TrainingView` does."""
        numbers = np.array([key.dataset for key in keys])
        parts = []
        for number in np.unique(numbers).tolist():
            rows = np.flatnonzero(numbers == number)
            parts.append((rows, self.views[number].__getitems__([keys[row] for row in rows.tolist()])))
        return parts[0][1] if len(parts) == 1 else _join(parts, self._memories)


class _OnEveryImage:
    """A function of image and generator, in the form of a transform that alters every image."""

    def __init__(self, function: ImageFunction) -> None:
        self._function = function

    def choose(self, uniforms: NDArray[np.float32]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        num = len(uniforms)
        return np.zeros(num, bool), np.ones((num, 1), bool)

    def alter(self, view: View, steps: NDArray[np.bool_], rng: np.random.Generator) -> None:
        view.image[:], view.visibility[:] = self._function(view.image, rng)


def read_or_replace(read: Callable[[int], T], labels: NDArray[np.int64], index: int) -> tuple[int, T]:
    """Return the position of what could be read, and that: at `index`, else the first readable image in its place.

    Args:
        read: position -> an image, or what belongs together; raises UnreadableImageError.
        labels: int64 [N], of all positions; others of the same label come first, then all others, each going round.
    Raises:
        UnreadableImageError: if none can be read; says why the first cannot.
    """
    try:
        return index, read(index)
    except UnreadableImageError as error:
        first = error
    for candidate in _others(labels, index):
        try:
            return candidate, read(candidate)
        except UnreadableImageError:
            continue
    reason = f"{first.reason}; nor can any other of the {len(labels)} images be read"
    raise UnreadableImageError(first.path, reason) from first


def _others(labels: NDArray[np.int64], index: int) -> Iterator[int]:
    """Yield every other position: those of the identity, then all others, each going round from `index`."""
    others = np.roll(np.arange(len(labels)), -index)[1:]
    same = labels[others] == labels[index]
    yield from others[same].tolist()
    yield from others[~same].tolist()


def _only(batch: ArrayBatch) -> Sample[Image, int]:
    """Return the sample of a batch of one."""
    assert batch.visibility is not None
    return Sample(
        batch.image[0],
        int(batch.label[0]),
        int(batch.dataset_id[0]),
        batch.visibility[0],
        int(batch.index[0]),
        int(batch.unreadable[0]),
        None if batch.second is None else _only(batch.second),
        None if batch.side is None else int(batch.side[0]),
    )


def _join(parts: list[tuple[NDArray[np.int64], ArrayBatch]], memories: list[BatchMemory]) -> ArrayBatch:
    """Return one batch of parts, each with the rows that it fills."""
    num = sum(len(rows) for rows, _ in parts)
    images, visibility = memories[0].take(num)
    shape = parts[0][1].image.shape[1:]
    if shape != images.shape[1:]:
        images = np.empty((num, *shape), np.uint8)
    label, dataset_id, index, unreadable, side = np.empty((5, num), np.int64)
    for rows, part in parts:
        assert part.visibility is not None, "a TrainingView gives it"
        images[rows], visibility[rows] = part.image, part.visibility
        label[rows], dataset_id[rows], index[rows], unreadable[rows] = (
            part.label, part.dataset_id, part.index, part.unreadable,
        )  # fmt: skip
        side[rows] = -1 if part.side is None else part.side
    has_side = any(part.side is not None for _, part in parts)
    batch: ArrayBatch = Sample(
        images, label, dataset_id, visibility, index, unreadable, side=side if has_side else None
    )
    seconds = [(rows, part.second) for rows, part in parts if part.second is not None]
    return batch._replace(second=_join(seconds, memories[1:])) if seconds else batch
