"""Images read from shard files: single ones, and blocks of them with one read each."""

from __future__ import annotations

import errno
import os
import threading
from collections import OrderedDict
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from datasets.arrays.format import IMAGE_BYTES, IMAGE_SHAPE, Manifest, shard_header, shard_name
from datasets.faces.images import UnreadableImageError
from datasets.faces.paths import open_regular
from datasets.sample import Image

BLOCK_IMAGES = 256  # 9.6 MB
_MAX_OPEN = 64  # files of a process, of the 1024 that it may usually have
_RECENT_BLOCKS = 1024
_UNCACHED = (errno.EAGAIN, errno.EWOULDBLOCK)


class Shards:
    """The pixels of a cache.

    One read takes one image, or with `by_blocks` the whole block of 256 around it where the system does not hold the
    image in memory: the disk is then read in long pieces, each once, and the following images of the block come from
    memory. Where the system cannot say what it holds (RWF_NOWAIT, Linux), a process reads each block once.

    Args:
        folder, manifest: of the cache.
    Attributes:
        by_blocks: whether images that lie near each other are read near each other, as `WindowBatchSampler` plans it.
    Raises:
        ValueError: if a shard is missing or has another size or form than the manifest says.
    """

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self._folder = folder
        self._manifest = manifest
        self.by_blocks = False
        self._start = len(shard_header(manifest.shard_images))
        self._open: OrderedDict[int, _File] = OrderedDict()
        self._lock = threading.Lock()
        self._recent: OrderedDict[int, None] = OrderedDict()
        self._asks = hasattr(os, "RWF_NOWAIT") and hasattr(os, "preadv")
        for shard in range(len(manifest.shards)):
            self._check(shard)

    def _check(self, shard: int) -> None:
        path, rows = self._folder / shard_name(shard), self._manifest.rows(shard)
        expected = shard_header(rows)
        try:
            size = path.stat().st_size
            with open_regular(path) as stream:
                header = stream.read(len(expected))
        except OSError as error:
            raise ValueError(f"{path}: cannot be read ({error.strerror})") from error
        if header != expected or size != len(expected) + rows * IMAGE_BYTES:
            raise ValueError(
                f"{path}: half written or damaged; `convert --to arrays` with the same source makes it again"
            )

    def read(self, row: int) -> Image:
        """Return one image as uint8 [112, 112, 3].

        Raises:
            UnreadableImageError: if the disk does not give it.
        """
        shard, place = divmod(row, self._manifest.shard_images)
        image = np.empty(IMAGE_SHAPE, np.uint8)
        if not (self.by_blocks and self._ask(shard, place, image)):
            self._fill(shard, place, image)
        return image

    def read_rows(self, start: int, stop: int) -> Image:
        """Return images start to stop as uint8 [N, 112, 112, 3], with one read for each shard that they lie in.

        Raises:
            UnreadableImageError: if the disk does not give them.
        """
        images = np.empty((stop - start, *IMAGE_SHAPE), np.uint8)
        at = start
        while at < stop:
            shard, place = divmod(at, self._manifest.shard_images)
            end = min(stop, at - place + self._manifest.rows(shard))
            self._fill(shard, place, images[at - start : end - start])
            at = end
        return images

    def _ask(self, shard: int, place: int, image: Image) -> bool:
        """Fill in an image by way of its block, and return whether that was done."""
        offset = self._start + place * IMAGE_BYTES
        if self._asks:
            try:
                file = self._file(shard)
                if os.preadv(file.number, [image.reshape(-1).data], offset, os.RWF_NOWAIT) == IMAGE_BYTES:
                    return True
            except OSError as error:
                self._asks = error.errno in _UNCACHED  # else a file system that cannot say it
        if not self._asks and not self._is_new(shard, place):
            return False
        first = place // BLOCK_IMAGES * BLOCK_IMAGES
        block = np.empty((min(BLOCK_IMAGES, self._manifest.rows(shard) - first), *IMAGE_SHAPE), np.uint8)
        self._fill(shard, first, block)
        image[:] = block[place - first]
        return True

    def _is_new(self, shard: int, place: int) -> bool:
        """Return whether this process has not read the block lately, and note that it does."""
        block = (shard * self._manifest.shard_images + place) // BLOCK_IMAGES
        with self._lock:
            is_new = block not in self._recent
            self._recent[block] = None
            self._recent.move_to_end(block)
            if len(self._recent) > _RECENT_BLOCKS:
                self._recent.popitem(last=False)
        return is_new

    def _fill(self, shard: int, place: int, images: Image) -> None:
        """Read images from a place of a shard on; a long read may come in pieces."""
        view, offset = images.reshape(-1).data.cast("B"), self._start + place * IMAGE_BYTES
        path = self._folder / shard_name(shard)
        try:
            file, done = self._file(shard), 0
            while done < len(view):
                num = file.read(view[done:], offset + done)
                if num == 0:
                    raise OSError(errno.EIO, "it ends too early")
                done += num
        except OSError as error:
            where = f"{path}, image {place}"
            raise UnreadableImageError(where, error.strerror or type(error).__name__) from error

    def _file(self, shard: int) -> _File:
        with self._lock:
            file = self._open.get(shard)
            if file is None:
                file = self._open[shard] = _File(self._folder / shard_name(shard))
                while len(self._open) > _MAX_OPEN:
                    self._open.popitem(last=False)  # closed when the last reader lets go of it
            self._open.move_to_end(shard)
        return file

    def __getstate__(self) -> dict[str, object]:
        return {"_folder": self._folder, "_manifest": self._manifest, "by_blocks": self.by_blocks}

    def __setstate__(self, state: dict) -> None:
        self.__init__(state["_folder"], state["_manifest"])  # type: ignore[misc]
        self.by_blocks = state["by_blocks"]


class _File:
    """A file that is read at places; forked processes and threads may share it."""

    def __init__(self, path: Path) -> None:
        self.number = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        self._lock = threading.Lock()
        # Reads have the length that is wanted: the system need not guess what comes next.
        advise(self.number, "POSIX_FADV_RANDOM")

    def read(self, target: memoryview, offset: int) -> int:
        """Read into a buffer from a byte on and return the number of bytes, 0 at the end."""
        if hasattr(os, "preadv"):
            return os.preadv(self.number, [target], offset)
        with self._lock:  # a system without reads at a place
            os.lseek(self.number, offset, os.SEEK_SET)
            data = os.read(self.number, len(target))
        target[: len(data)] = data
        return len(data)

    def __del__(self) -> None:
        if hasattr(self, "number"):
            os.close(self.number)


def advise(number: int, advice: str, ranges: Iterable[tuple[int, int]] = ((0, 0),)) -> None:
    """Tell the system how the bytes of an open file will be read, where it listens.

    Args:
        number: the file.
        advice: name in `os`, as "POSIX_FADV_RANDOM".
        ranges: (first byte, number of bytes); 0 bytes: to the end.
    """
    if hasattr(os, "posix_fadvise"):
        for start, length in ranges:
            os.posix_fadvise(number, start, length, getattr(os, advice))
