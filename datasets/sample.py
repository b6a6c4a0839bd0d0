"""The records that data sets hand over, and what a data set of faces offers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Generic, NamedTuple, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

if TYPE_CHECKING:
    from datasets.faces.paths import PathTable

Image = NDArray[np.uint8]

ArrayT = TypeVar("ArrayT")
IntT = TypeVar("IntT")
T = TypeVar("T")


class Sample(NamedTuple, Generic[ArrayT, IntT]):
    """One face (`Sample[Image, int]`), or a batch of them in arrays or, after `collate`, in tensors.

    Attributes:
        image: uint8 [112, 112, 3] RGB; as a batch uint8 [B, 112, 112, 3]. Of a second view for a network that enlarges
            it, [h, h, 3].
        label: identity, contiguous from 0 within its data set, -1 where there is none; as a batch int64 [B].
        dataset_id: which of several training sets it comes from; as a batch int64 [B].
        visibility: uint8 [112, 112], 1 = visible, 0 = occluded, or None where no mask exists; as a batch [B, 112, 112].
        index: position in the data set of the image really used; as a batch int64 [B].
        unreadable: position of the drawn image that `index` replaces, -1 if none; as a batch int64 [B].
        second: another view of the same image, or of its partner, drawn with `SampleKey.view` = 1; None: not asked for.
        side: of a low-resolution view: pixels of the smallest image that it was; see `transforms.difficulty`. As a
            batch int64 [B]. None elsewhere.
    """

    image: ArrayT
    label: IntT
    dataset_id: IntT
    visibility: ArrayT | None
    index: IntT  # type: ignore[assignment]  # hides tuple.index, which nobody needs
    unreadable: IntT = -1  # type: ignore[assignment]  # a batch always states it
    second: Sample[ArrayT, IntT] | None = None
    side: IntT | None = None


ArrayBatch = Sample[Image, NDArray[np.int64]]


class SampleKey(NamedTuple):
    """Which image is drawn, and what keys every random number of its augmentation and occlusion.

    The numbers follow from seed, data set, epoch, position and view, so that they depend on no rank and no worker; the
    index only says what they are applied to.

    Attributes:
        dataset: number of the data set, 0 where there is one.
        index: the image of it to read.
        epoch: the epoch of the plan.
        position: place in the plan of all ranks together.
        view: 0, or 1 for the second view of the place.
    """

    dataset: int
    index: int  # type: ignore[assignment]  # hides tuple.index
    epoch: int
    position: int
    view: int = 0


class LabeledFaces(Protocol):
    """What samplers and views need of a set of labeled faces."""

    class_names: list[str]
    """The original name of every identity, in label order."""

    @property
    def labels(self) -> NDArray[np.int64]:
        """int64 [N], contiguous from 0, known without decoding."""

    def __len__(self) -> int: ...

    def read(self, index: int) -> Image:
        """Return uint8 [112, 112, 3] RGB; raises UnreadableImageError."""


class FaceDataset(LabeledFaces, Protocol):
    """What pair makers and caches need beside: where the images come from."""

    decoding: str
    """How `read` turns a file into pixels; part of the key of anything cached from them."""

    @property
    def paths(self) -> PathTable:
        """The file of every image."""


def collate(samples: Sequence[Sample[Image, int]] | ArrayBatch) -> Sample[Tensor, Tensor]:
    """Return a batch in tensors, which share the memory of a batch in arrays; single samples are stacked.

    Images stay uint8, because the device normalizes them.

    Raises:
        ValueError: if there are no samples, or only some of them carry a visibility mask, a second view or a side.
    """
    batch = samples if isinstance(samples, Sample) else _stack(samples)
    return Sample(
        image=torch.from_numpy(batch.image),
        label=torch.from_numpy(batch.label),
        dataset_id=torch.from_numpy(batch.dataset_id),
        visibility=None if batch.visibility is None else torch.from_numpy(batch.visibility),
        index=torch.from_numpy(batch.index),
        unreadable=torch.from_numpy(batch.unreadable),
        second=None if batch.second is None else collate(batch.second),
        side=None if batch.side is None else torch.from_numpy(batch.side),
    )


def _stack(samples: Sequence[Sample[Image, int]]) -> ArrayBatch:
    if not samples:
        raise ValueError("collate: a batch needs at least one sample, got none")
    masks = _all_or_none([sample.visibility for sample in samples], "a visibility mask")
    seconds = _all_or_none([sample.second for sample in samples], "a second view")
    sides = _all_or_none([sample.side for sample in samples], "a side")
    return Sample(
        image=np.stack([sample.image for sample in samples]),
        label=np.array([sample.label for sample in samples]),
        dataset_id=np.array([sample.dataset_id for sample in samples]),
        visibility=np.stack(masks) if masks else None,
        index=np.array([sample.index for sample in samples]),
        unreadable=np.array([sample.unreadable for sample in samples]),
        second=_stack(seconds) if seconds else None,
        side=np.array(sides) if sides else None,
    )


def _all_or_none(values: list[T | None], what: str) -> list[T]:
    present = [value for value in values if value is not None]
    if present and len(present) != len(values):
        raise ValueError(f"collate: {len(present)} of {len(values)} samples carry {what}; a batch needs all or none")
    return present
