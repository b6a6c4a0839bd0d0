"""A folder per identity, any image format that OpenCV reads."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from datasets.images import read_image
from datasets.paths import PathTable
from datasets.sample import Image, Sample

logger = logging.getLogger(__name__)

# Suffixes, because asking OpenCV would open every one of millions of files.
IMAGE_SUFFIXES = frozenset(
    ".jpg .jpeg .jpe .png .bmp .dib .webp .pgm .ppm .pbm .pnm .pam .tif .tiff .jp2 .gif .avif .sr .ras .hdr".split()
)
BENCHMARK_FILES = ("images.npy", "issame.npy")
_LAYOUT = "expected one folder of images per identity"


class ImageFolderDataset:
    """Faces in identity folders: `<root>/<identity>/<image>`.

    Identities are the folders with at least one image, sorted by name, images sorted by name within them. Hidden files,
    files without an image suffix, benchmark folders and symbolic links that lead out of the root are left out.

    Args:
        root: folder of identity folders.
        transform: applied to every image that is read, uint8 [112, 112, 3] RGB to the same.
        swap_color_channel: the files hold BGR where their format says RGB: turn it.
    Attributes:
        labels: int64 [N], known from the folders alone.
        class_names: folder name of every identity, in label order.
        paths: file of every image.
    Raises:
        ValueError: if the root is missing, not a folder, unreadable or holds no identity with an image.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        transform: Callable[[Image], Image] | None = None,
        *,
        swap_color_channel: bool = False,
    ) -> None:
        self.root = Path(root)
        self.transform = transform
        self.swap_color_channel = swap_color_channel
        self.decoding = f"swap_color_channel={swap_color_channel} transform={transform!r}"
        images = _scan(self.root)
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
        image = read_image(self.paths[index])
        if self.swap_color_channel:
            image = np.ascontiguousarray(image[..., ::-1])
        return image if self.transform is None else self.transform(image)

    def __getitem__(self, index: int) -> Sample[Image, int]:
        return Sample(self.read(index), int(self.labels[index]), 0, None, index)


def _scan(root: Path) -> dict[str, list[str]]:
    """Return the sorted image names of every identity folder, sorted by folder name."""
    if not root.is_dir():
        problem = "is not a folder" if root.exists() else "does not exist"
        raise ValueError(f"ImageFolderDataset: {root} {problem}; {_LAYOUT}")
    entries = _entries(root, root)
    folders = sorted(entry.name for entry in entries if entry.is_dir() and not _is_benchmark(Path(entry)))
    images = {folder: _image_names(root / folder, root) for folder in folders}
    found = {folder: names for folder, names in images.items() if names}
    loose = sum(_is_image(entry) for entry in entries)
    if not found:
        content = f"images lie directly in it ({loose})" if loose else f"no image in any of its {len(images)} folders"
        raise ValueError(f"ImageFolderDataset: {root}: {content}; {_LAYOUT}")
    if loose:
        logger.warning("%s: %d images lie outside the identity folders and are ignored", root, loose)
    if len(found) < len(images):
        empty = [folder for folder in folders if folder not in found]
        logger.warning("%s: %d folders without an image are ignored, the first is %s", root, len(empty), empty[0])
    return found


def _image_names(folder: Path, root: Path) -> list[str]:
    return sorted(entry.name for entry in _entries(folder, root) if _is_image(entry))


def _entries(folder: Path, root: Path) -> list[os.DirEntry[str]]:
    """Return what a folder shows: nothing hidden and no symbolic link that leads out of the root."""
    try:
        with os.scandir(folder) as scan:
            entries = [entry for entry in scan if not entry.name.startswith(".")]
    except OSError as error:
        raise ValueError(
            f"ImageFolderDataset: cannot list {folder} ({error.strerror}); check its permissions"
        ) from error
    inside = [entry for entry in entries if not entry.is_symlink() or _leads_inside(Path(entry), root)]
    if len(inside) < len(entries):
        logger.warning("%s: %d links lead out of %s and are ignored", folder, len(entries) - len(inside), root)
    return inside


def _leads_inside(link: Path, root: Path) -> bool:
    try:
        return link.resolve(strict=True).is_relative_to(root.resolve())
    except (OSError, RuntimeError):  # a dangling link, or a loop
        return False


def _is_image(entry: os.DirEntry[str]) -> bool:
    return os.path.splitext(entry.name)[1].lower() in IMAGE_SUFFIXES and entry.is_file()  # noqa: PTH122


def _is_benchmark(folder: Path) -> bool:
    return all((folder / name).is_file() for name in BENCHMARK_FILES)
