"""Pairs of image files of one face: `hr/<person>/<image>` and its partner at a low resolution."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from datasets.faces.folder_scan import FolderScan
from datasets.faces.image_folder import ImageFolderDataset
from datasets.faces.image_header import Size, image_size
from datasets.faces.images import UnreadableImageError, fit_image, read_image
from datasets.faces.paths import PathTable, open_regular
from datasets.paired.folders import HR, match_partners, partner_of
from datasets.sample import Image, LabeledFaces, Sample
from datasets.subset import Subset
from transforms import IMAGE_SIZE
from transforms.degradation import resized

_MAX_LOOKED_AT = 500  # pairs whose sizes are compared before anything is read: folders that are exchanged show at once
_HEADER_BYTES = 2**16


class Pair(NamedTuple):
    """Two images of one face.

    Attributes:
        hr: uint8 [112, 112, 3] RGB.
        lr: uint8 [s, s, 3] RGB, s the longer side that the file has, at most 112.
    """

    hr: Image
    lr: Image


class PairedFaces:
    """Faces in `<root>/hr/<person>/<image>`, each with a partner in `<root>/lr` or `<root>/dsr`, see `partner_of`.

    A data set of the high-resolution images, as `ImageFolderDataset` has them, whose `read_pair` gives both.

    Args:
        root: folder of both folders.
        partner: name of the partners' folder; None: the one that is there.
        swap_color_channel: the files hold BGR where their format says RGB: turn it, in both.
        follow_links: follow symbolic links that lead out of the two folders.
    Attributes:
        labels, class_names, paths, decoding, unread: of the high-resolution images.
        partner_paths: file of the partner of every image.
    Raises:
        ValueError: if a folder is missing, images do not pair (see `match_partners`), or partners are larger.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        partner: str | None = None,
        *,
        swap_color_channel: bool = False,
        follow_links: bool = False,
    ) -> None:
        self.root = Path(root)
        folder = partner_of(self.root, partner)
        hr = ImageFolderDataset(self.root / HR, swap_color_channel=swap_color_channel, follow_links=follow_links)
        scan = FolderScan(folder, follow_links)
        own = (hr.paths.relative(index) for index in range(len(hr)))
        others = (f"{person}/{name}" for person, names in scan.images.items() for name in names)
        self._hr = hr
        self.labels: NDArray[np.int64] = hr.labels
        self.class_names = hr.class_names
        self.paths = hr.paths
        self.unread = [*hr.unread, *scan.unread]
        self.decoding = f"{hr.decoding} partner={folder.name}"
        self.partner_paths = PathTable(folder, match_partners(self.root, own, others, (HR, folder.name)))
        self._refuse_larger_partners()

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, index: int) -> Image:
        """Return one high-resolution image as uint8 [112, 112, 3] RGB; raises UnreadableImageError."""
        return self._hr.read(index)

    def read_pair(self, index: int) -> Pair:
        """Return both images of one position.

        Raises:
            UnreadableImageError: if one of them cannot be decoded, or the partner is the larger one.
        """
        hr, lr = read_image(self.paths[index]), read_image(self.partner_paths[index])
        if _is_larger((lr.shape[1], lr.shape[0]), (hr.shape[1], hr.shape[0])):
            raise UnreadableImageError(
                self.partner_paths[index],
                f"{lr.shape[1]} x {lr.shape[0]} pixels, more than the {hr.shape[1]} x {hr.shape[0]} of its partner",
            )
        if self._hr.swap_color_channel:
            hr, lr = (np.ascontiguousarray(image[..., ::-1]) for image in (hr, lr))
        side = min(max(lr.shape[:2]), IMAGE_SIZE)
        return Pair(fit_image(hr), fit_image(lr) if side == IMAGE_SIZE else resized(lr, side))

    def __getitem__(self, index: int) -> Sample[Image, int]:
        return Sample(self.read(index), int(self.labels[index]), 0, None, index)

    def _refuse_larger_partners(self) -> None:
        looked_at = np.unique(np.linspace(0, len(self) - 1, _MAX_LOOKED_AT).astype(int)).tolist()
        sizes = [(_size(self.partner_paths[index]), _size(self.paths[index])) for index in looked_at]
        larger = [index for index, (lr, hr) in zip(looked_at, sizes, strict=True) if lr and hr and _is_larger(lr, hr)]
        if larger:
            first = larger[0]
            names = [f"{paths.root.name}/{paths.relative(first)}" for paths in (self.partner_paths, self.paths)]
            raise ValueError(
                f"{self.root}: {names[0]} is larger than {names[1]}, as {len(larger)} of {len(looked_at)} pairs that "
                "were looked at; are the folders exchanged? Shrink the images that stand for a low resolution"
            )


def pair_reader(dataset: LabeledFaces, is_made: bool, place: str) -> Callable[[int], tuple[Image, Image]]:
    """Return what reads both images of a position, or the high-resolution one twice where the other is made of it.

    Args:
        dataset: `PairedFaces` or a subset of one; where the other image is made, any but these.
        is_made: whether there is a degradation.
        place: who asks, for the error.
    Raises:
        ValueError: if the data set has pairs and there is a degradation, or neither.
    """
    if has_pairs(dataset) == is_made:
        fault = (
            "has low-resolution images: no degradation" if is_made else "has no low-resolution images: a degradation"
        )
        raise ValueError(f"{place}: the data set {fault} is needed")
    return partial(_read_twice if is_made else _read_pair, dataset)


def has_pairs(dataset: LabeledFaces) -> bool:
    """Return whether a data set is `PairedFaces` or a subset of one."""
    while isinstance(dataset, Subset):
        dataset = dataset.dataset
    return isinstance(dataset, PairedFaces)


def _read_twice(dataset: LabeledFaces, index: int) -> tuple[Image, Image]:
    image = dataset.read(index)
    return image, image


def _read_pair(dataset: LabeledFaces, index: int) -> Pair:
    while isinstance(dataset, Subset):
        index = int(dataset.indices[index])
        dataset = dataset.dataset
    assert isinstance(dataset, PairedFaces), "checked before"
    return dataset.read_pair(index)


def _is_larger(size: Size, other: Size) -> bool:
    """Return whether a side is larger; which side is which may be turned by a camera's tag."""
    return any(a > b for a, b in zip(sorted(size), sorted(other), strict=True))


def _size(path: Path) -> Size | None:
    try:
        with open_regular(path) as stream:
            return image_size(stream.read(_HEADER_BYTES))
    except OSError:
        return None  # it counts as unreadable when it is drawn
