"""Faces in a cache of decoded images, as `convert --to arrays` writes it."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable
from functools import partial
from multiprocessing.pool import ThreadPool
from pathlib import Path

import numpy as np

from datasets.arrays.format import (
    FILES,
    IDENTITIES,
    IMAGE_BYTES,
    LABELS,
    MANIFEST,
    MISSING,
    NAMES,
    ORIGINALS,
    Manifest,
    file_crc,
    read_checked,
    read_manifest,
    read_names,
    read_numbers,
    shard_name,
)
from datasets.arrays.shards import Shards
from datasets.cache_folder import cache_folder
from datasets.content_key import content_key
from datasets.faces.images import UnreadableImageError
from datasets.faces.paths import PathTable
from datasets.progress import tracked
from datasets.sample import Image, Sample
from system.files import write_text
from system.memory import total_memory

logger = logging.getLogger(__name__)

MAX_SHARE = 0.6  # of the memory that a cache may take without a warning
_THREADS = 4


class ArrayDataset:
    """Decoded faces in shard files, with the interface of `ImageFolderDataset`, in the random order of the cache.

    Labels and names come from small files. The checksums of all shards are compared when a cache is opened for the
    first time, at about 2 GB/s; the cache folder then notes that these very files were sound. An image that the source
    could not give is unreadable here too, for the same reason.

    Args:
        root: folder of the cache.
        transform: applied to every image that is read, uint8 [112, 112, 3] RGB to the same.
        swap_color_channel: the source held BGR where its format said RGB: turn it.
    Attributes:
        labels: int64 [N], contiguous from 0.
        class_names: of each identity in the source.
        paths: name of each image in the source, below the cache's folder.
        originals: int64 [N], position of each image in the source.
        shard_images: images of every shard but the last.
    Raises:
        ValueError: if the folder is no cache, half written, or a checksum is wrong; names the file.
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
        self._open()
        if damaged := _unsound(self.root, self.manifest):
            raise ValueError(
                f"{self.root / damaged[0]}: damaged, its checksum is wrong; `convert --to arrays` with the same source "
                "makes it again"
            )
        warn_beyond_memory(self.root, len(self))

    def _open(self) -> None:
        self.manifest = read_manifest(self.root)
        count, num_classes, crcs = self.manifest.count, self.manifest.identities, self.manifest.files
        self._shards = Shards(self.root, self.manifest)
        content = {name: read_checked(self.root / name, crcs[name]) for name in (NAMES, IDENTITIES, MISSING)}
        self.originals = read_numbers(self.root / ORIGINALS, crcs[ORIGINALS], count, count)
        self.labels = read_numbers(self.root / LABELS, crcs[LABELS], count, num_classes)
        names = read_names(content[NAMES], count, self.root / NAMES)
        self.paths = PathTable(self.root, map(os.fsdecode, names))
        identities = read_names(content[IDENTITIES], num_classes, self.root / IDENTITIES)
        self.class_names = [os.fsdecode(name) for name in identities]
        self._unreadable = _parse_unreadable(content[MISSING], self.root / MISSING)
        transform = self.transform and content_key(self.transform)
        options = f"swap_color_channel={self.swap_color_channel} transform={transform}"
        digest = hashlib.sha256(self.manifest.to_json().encode()).hexdigest()
        self.decoding = f"{digest} {options}"

    def __getstate__(self) -> dict[str, object]:
        return {
            name: self.__dict__[name] for name in ("root", "transform", "swap_color_channel", "decoding", "_shards")
        }

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        shards = self._shards
        self._open()
        self._shards = shards
        if self.decoding != state["decoding"]:
            raise ValueError(f"{self.root}: it changed while it was in use")

    @property
    def shard_images(self) -> int:
        """Images of every shard but the last."""
        return self.manifest.shard_images

    def read_by_blocks(self) -> None:
        """Expect images that lie near each other to be read near each other: blocks are then read at once."""
        self._shards.by_blocks = True

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, index: int) -> Image:
        """Return one image as uint8 [112, 112, 3] RGB.

        Raises:
            UnreadableImageError: if the source could not give it, or the disk does not.
        """
        self._refuse_unreadable(index)
        return self._finished(self._shards.read(index))

    def read_rows(self, start: int, stop: int) -> list[Image | UnreadableImageError]:
        """Return images start to stop, read at once, each as `read` returns it, or the error that it raises."""
        images: list[Image | UnreadableImageError] = []
        for index, image in zip(range(start, stop), self._shards.read_rows(start, stop), strict=True):
            try:
                self._refuse_unreadable(index)
                images.append(self._finished(image))
            except UnreadableImageError as error:
                images.append(error)
        return images

    def _refuse_unreadable(self, index: int) -> None:
        reason = self._unreadable.get(index)
        if reason is not None:
            raise UnreadableImageError(f"{self.paths[index]}", reason)

    def _finished(self, image: Image) -> Image:
        if self.swap_color_channel:
            image = np.ascontiguousarray(image[..., ::-1])
        return image if self.transform is None else self.transform(image)

    def __getitem__(self, index: int) -> Sample[Image, int]:
        return Sample(self.read(index), int(self.labels[index]), 0, None, index)


def damaged_files(folder: Path, manifest: Manifest) -> list[str]:
    """Return the names of the files of a cache whose checksums are wrong or that are missing, under a progress bar."""
    expected = {shard_name(shard): crc for shard, crc in enumerate(manifest.shards)}
    expected |= {name: manifest.files[name] for name in FILES}
    with ThreadPool(min(_THREADS, len(expected))) as pool:
        checked = pool.imap(partial(_is_sound, folder), expected.items())
        sound = list(tracked(checked, "Checking the cache", len(expected), transient=True))
    return [name for name, is_sound in zip(expected, sound, strict=True) if not is_sound]


def _is_sound(folder: Path, item: tuple[str, int]) -> bool:
    try:
        return file_crc(folder / item[0]) == item[1]
    except OSError:
        return False


def warn_beyond_memory(folder: Path, num_images: int) -> None:
    """Say so where a cache is larger than what memory can well hold: it is then read from the disk again and again."""
    size, memory = num_images * IMAGE_BYTES, total_memory()
    if memory is not None and size > MAX_SHARE * memory:
        logger.warning(
            "%s: %.1f GB of decoded images are more than %.0f %% of the %.1f GB of memory here: records, which are a "
            "sixth of that, are the better choice", folder, size / 1e9, 100 * MAX_SHARE, memory / 1e9,
        )  # fmt: skip


def _unsound(folder: Path, manifest: Manifest) -> list[str]:
    """Return `damaged_files`, compared once as long as the files keep their size and time."""
    states = [MANIFEST, *FILES, *(shard_name(shard) for shard in range(len(manifest.shards)))]
    digest = hashlib.sha256(os.fsencode(folder.resolve()))
    for name in states:
        status = (folder / name).stat()
        digest.update(f"{name} {status.st_size} {status.st_mtime_ns} {status.st_ino}\n".encode())
    note = cache_folder() / "arrays" / f"{digest.hexdigest()[:32]}.sound"
    if note.exists():
        return []
    damaged = damaged_files(folder, manifest)
    if not damaged:
        try:
            note.parent.mkdir(parents=True, exist_ok=True)
            write_text(note, f"{folder.resolve()}\n".encode("utf-8", "replace").decode())
        except OSError as error:
            logger.info("%s: cannot be written (%s); the next run compares checksums again", note, error.strerror)
    return damaged


def _parse_unreadable(data: bytes, path: Path) -> dict[int, str]:
    found: dict[int, str] = {}
    for line in data.decode("utf-8", "replace").splitlines():
        number, _, reason = line.partition("\t")
        if not number.isdecimal():
            raise ValueError(f"{path}: damaged, {line[:40]!r} names no image")
        found[int(number)] = reason
    return found
