"""A folder per identity, images of any format that OpenCV reads, HEIC where pillow-heif is installed."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from datasets.content_key import content_key
from datasets.faces.folder_scan import FolderScan, LeftOut
from datasets.faces.images import fit_image, read_image
from datasets.faces.paths import PathTable
from datasets.sample import Image, Sample

logger = logging.getLogger(__name__)


class ImageFolderDataset:
    """Faces in identity folders: `<root>/<identity>/<image>`.

    Identities are the folders with at least one image, sorted by name, images sorted by name within them; see
    `FolderScan` for what counts as an image. What is left out is counted in one warning.

    Args:
        root: folder of identity folders.
        follow_links: follow symbolic links that lead out of the root.
        transform: applied to every image that is read, uint8 [112, 112, 3] RGB to the same.
        swap_color_channel: the files hold BGR where their format says RGB: turn it.
        only: the one identity to read; None: all.
    Attributes:
        labels: int64 [N], known from the folders alone.
        class_names: folder name of every identity, in label order.
        paths: file of every image.
        left_out: number of files in the identity folders that are not read, by suffix and reason.
        unread: a line for each kind of thing below the root that is not read, for people.
    Raises:
        ValueError: if the root is missing, not a folder, unreadable or holds no identity with an image.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        transform: Callable[[Image], Image] | None = None,
        *,
        swap_color_channel: bool = False,
        follow_links: bool = False,
        only: str | None = None,
    ) -> None:
        self.root = Path(root)
        self.transform = transform
        self.swap_color_channel = swap_color_channel
        self.decoding = f"swap_color_channel={swap_color_channel} transform={transform and content_key(transform)}"
        scan = FolderScan(self.root, follow_links, only)
        images = scan.images
        self.left_out: LeftOut = scan.left_out
        self.unread: list[str] = scan.unread
        self.class_names = list(images)
        counts = np.array([len(names) for names in images.values()], np.int64)
        self.labels: NDArray[np.int64] = np.repeat(np.arange(len(images)), counts)
        self.paths = PathTable(self.root, (f"{folder}/{name}" for folder, names in images.items() for name in names))
        single = int((counts == 1).sum())
        if single:
            logger.warning("%s: %d of %d identities have one image only", self.root, single, len(counts))

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, index: int) -> Image:
        """Return one image as uint8 [112, 112, 3] RGB.

        Raises:
            UnreadableImageError: if the file cannot be decoded.
        """
        image = fit_image(read_image(self.paths[index]))
        if self.swap_color_channel:
            image = np.ascontiguousarray(image[..., ::-1])
        return image if self.transform is None else self.transform(image)

    def __getitem__(self, index: int) -> Sample[Image, int]:
        return Sample(self.read(index), int(self.labels[index]), 0, None, index)
