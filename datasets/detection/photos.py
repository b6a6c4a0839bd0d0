"""Labeled photographs read one by one, and the views that a detector is trained on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from datasets.detection.coco_json import read_coco
from datasets.detection.label_text import read_label_text
from datasets.detection.labels import LabeledPhoto, PhotoLabels, Skipped, box_fault, warn_of_skipped
from datasets.faces.image_header import image_size
from datasets.faces.images import UnreadableImageError, read_image
from datasets.faces.paths import open_regular
from datasets.faces.view import read_or_replace
from datasets.random_streams import RandomStreams
from datasets.sample import SampleKey
from transforms.detection.augment import DetectionSample, DetectionTransform
from transforms.detection.faces import FaceBoxes

_HEAD_BYTES = 2**16


def read_labels(path: Path) -> PhotoLabels:
    """Read a file of labels: `.json` by `read_coco`, all else by `read_label_text`, which say what they raise."""
    return read_coco(path) if path.suffix.lower() == ".json" else read_label_text(path)


class LabeledPhotos:
    """Photographs in a folder with their faces.

    Boxes that lie outside a photograph whose file says its size are left out, counted and said in a warning.

    Args:
        root: the folder that names of photographs begin at.
        labels: of them.
    Attributes:
        skipped: faces left out because they lie outside.
    Raises:
        ValueError: if the folder is missing, or none of the photographs is in it.
    """

    def __init__(self, root: Path, labels: PhotoLabels) -> None:
        if not root.is_dir():
            raise ValueError(f"{root}: no folder of photographs; {labels.file} names paths below it")
        self.root = root
        self.skipped: list[Skipped] = []
        self._photos = [self._checked(photo) for photo in labels.photos]
        if not any((root / photo.name).is_file() for photo in self._photos):
            raise ValueError(f"{root}: has none of the {len(self._photos)} photographs of {labels.file}")
        warn_of_skipped(labels.file, self.skipped, labels.unit)

    def __len__(self) -> int:
        return len(self._photos)

    def labels(self, index: int) -> LabeledPhoto:
        """Return what is known of a photograph without reading it."""
        return self._photos[index]

    def read(self, index: int) -> DetectionSample:
        """Return a photograph uint8 [H, W, 3] RGB with its faces, as they are labeled: boxes may leave the photograph.

        Raises:
            UnreadableImageError: if it cannot be read, or has another size than its labels say.
        """
        photo = self._photos[index]
        image = read_image(self.root / photo.name)
        height, width = image.shape[:2]
        if photo.size is not None and photo.size != (width, height):
            reason = f"{width} x {height} pixels, but its labels are of {photo.size[0]} x {photo.size[1]}"
            raise UnreadableImageError(self.root / photo.name, reason)
        return DetectionSample(image, photo.faces)

    def _checked(self, photo: LabeledPhoto) -> LabeledPhoto:
        """Return a photograph without the faces that lie outside of what its file says."""
        size = photo.size or _size_of(self.root / photo.name)
        reasons = [box_fault(box, size) for box in photo.faces.boxes.tolist()]
        if not any(reasons):
            return photo
        bad = [Skipped(int(place), reason) for place, reason in zip(photo.places, reasons, strict=True) if reason]
        self.skipped.extend(bad)
        return photo.take(np.array([not reason for reason in reasons]))


def _size_of(path: Path) -> tuple[int, int] | None:
    """Return width and height from a file's beginning; a missing file is found out when it is read."""
    try:
        with open_regular(path) as stream:
            return image_size(stream.read(_HEAD_BYTES))
    except OSError:
        return None


class DetectionView(NamedTuple):
    """What a loader hands over for one place of the plan.

    Attributes:
        image: uint8 [S, S, 3] RGB.
        faces: of it.
        index: of the photograph really used.
        unreadable: of the drawn photograph that it replaces, -1 if none.
    """

    image: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]
    faces: FaceBoxes
    index: int  # type: ignore[assignment]  # hides tuple.index
    unreadable: int


class DetectionViews(Dataset[DetectionView]):
    """Augmented photographs, addressed by `SampleKey`: a view is a function of its key and the seed.

    A photograph that cannot be read is replaced by the next one that can, going round.

    Args:
        photos: where photographs are read.
        transform: what makes views of them.
        seed: >= 0.
    """

    def __init__(self, photos: LabeledPhotos, transform: DetectionTransform, seed: int) -> None:
        self.photos = photos
        self.transform = transform
        self._streams = RandomStreams(seed)
        self._labels = np.zeros(len(photos), np.int64)  # any photograph may replace any other

    def __len__(self) -> int:
        return len(self.photos)

    def __getitem__(self, key: SampleKey) -> DetectionView:
        """Return the view of a key.

        Raises:
            UnreadableImageError: if no photograph can be read.
        """
        index, (photograph, labeled) = read_or_replace(self.photos.read, self._labels, key.index)
        clipped = labeled.clipped(
            photograph.shape[1], photograph.shape[0]
        )  # what lies outside is nothing to learn from
        seen = clipped.take(np.all(clipped.boxes[:, 2:] > clipped.boxes[:, :2], axis=1))
        image, faces = self.transform(photograph, seen, self._streams.generator(key))
        return DetectionView(image, faces, index, -1 if index == key.index else key.index)


class DetectionBatch(NamedTuple):
    """Views in tensors; faces are one list entry an image, because their numbers differ.

    Attributes:
        images: uint8 [B, S, S, 3] RGB.
        boxes: of each image, float32 [N, 4], x1 y1 x2 y2 in pixels.
        points: float32 [N, 5, 2], NaN where not labeled.
        ignored: bool [N].
        index, unreadable: int64 [B], as of DetectionView.
    """

    images: Tensor
    boxes: list[Tensor]
    points: list[Tensor]
    ignored: list[Tensor]
    index: Tensor  # type: ignore[assignment]  # hides tuple.index
    unreadable: Tensor


def collate_detections(views: Sequence[DetectionView]) -> DetectionBatch:
    """Return one or more views of one size as a batch."""
    return DetectionBatch(
        torch.from_numpy(np.stack([view.image for view in views])),
        [torch.from_numpy(view.faces.boxes) for view in views],
        [torch.from_numpy(view.faces.points) for view in views],
        [torch.from_numpy(view.faces.ignored) for view in views],
        torch.tensor([view.index for view in views]),
        torch.tensor([view.unreadable for view in views]),
    )
