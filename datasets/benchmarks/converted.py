"""Benchmark sets in the formats of others, converted once to our own layout in the user's cache folder."""

from __future__ import annotations

import errno
import hashlib
import logging
import math
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from datasets.benchmarks.benchmark_folder import IMAGE_SHAPE, Benchmark, PairStream, read_folder, write_folder
from datasets.cache_folder import cache_folder, publish
from datasets.checksums import verify
from datasets.faces.paths import open_regular
from datasets.progress import tracked

T = TypeVar("T")

logger = logging.getLogger(__name__)

# Raised whenever the same files would give other pixels.
_VERSION = 1
# No public set of pairs has a tenth of it, and it is 39 GB.
_MAX_IMAGES = 2**20
# What may stay in memory where the cache cannot be written: five times the usual set.
_MAX_MEMORY = 2**31
_END_BYTES = 2**16


@dataclass(frozen=True)
class Source:
    """The files that hold a set in another format.

    Attributes:
        root: folder that the names start from.
        names: all files that pixels and answers come from.
        probes: the few of them whose beginning and end tell versions apart that share size and time.
        read: opens them.
    """

    root: Path
    names: Sequence[str]
    probes: Sequence[str]
    read: Callable[[], PairStream]

    def key(self) -> str:
        """Return hex digits that change when a file changes, from sizes, times and a few bytes.

        Raises:
            ValueError: if a file is missing or cannot be read; names it.
        """
        digest = hashlib.sha256(os.fsencode(f"{_VERSION} {self.root.resolve()}"))
        for name in self.names:
            status = self._read(name, os.stat)
            digest.update(os.fsencode(f"\0{name}\0{status.st_size} {status.st_mtime_ns}"))
        for name in self.probes:
            digest.update(self._read(name, _ends))
        return digest.hexdigest()[:32]

    def checksum(self) -> str:
        """Return "sha256:" and the digest of the file, or of what sha256sum prints for the files sorted by name.

        Raises:
            ValueError: if a file is missing or cannot be read; names it.
        """
        digests = {name: self._read(name, _digest) for name in sorted(self.names)}
        if len(digests) == 1:
            return f"sha256:{digests[self.names[0]]}"
        lines = "".join(f"{digest}  {name}\n" for name, digest in digests.items())
        return f"sha256:{hashlib.sha256(os.fsencode(lines)).hexdigest()}"

    def _read(self, name: str, read: Callable[[str], T]) -> T:
        # Not a Path: a set may have a file an image, and this is all that is done on a second opening.
        file = f"{self.root}/{name}"
        try:
            return read(file)
        except OSError as error:
            raise ValueError(f"{file}: cannot be read ({error.strerror})") from error


def convert_once(source: Source, name: str, cache: Path | None = None, progress: bool = True) -> Benchmark:
    """Return a set in our own layout, memory-mapped and shared by workers, ranks and later runs.

    It is converted into `<cache>/benchmarks/<key>/<name>` unless it is there: complete or not at all. Where the cache
    cannot be written, one warning says so and the set stays in memory.

    Args:
        source: the files.
        name: of the set.
        cache: folder; None is the user's.
        progress: whether to show a progress bar.
    Raises:
        ValueError: if the files cannot be read or are damaged, or the set is too large for the memory where it cannot
            be cached; one line that names the file.
    """
    folder = (cache or cache_folder()) / "benchmarks" / f"{source.key()}-{name}"
    ready = open_cached(folder, name)
    if ready is not None:
        return ready
    checksum = source.checksum()

    def write(temporary: Path) -> None:
        stream = _checked(source, progress, name)
        _check_space(temporary, stream.num_images)
        write_folder(stream, temporary / name, checksum)

    try:
        publish(folder, write)
        return read_folder(folder / name, name, verified=True)
    except OSError as error:
        logger.warning("%s: cannot cache benchmark %s (%s); it stays in memory", folder.parent, name, error.strerror)
        return _collect(_checked(source, progress, name), name, checksum)


def open_cached(folder: Path, name: str) -> Benchmark | None:
    """Return the set that `publish` put into a folder of the cache, None if there is none; a damaged one is removed."""
    try:
        if not folder.exists():
            return None
        verify(folder / name)  # one of an older version has no checksums
        return read_folder(folder / name, name, verified=True)
    except ValueError as error:
        logger.warning("%s; it is made again", error)
        shutil.rmtree(folder, ignore_errors=True)
    except OSError:  # no right to look: writing it will say so
        pass
    return None


def _checked(source: Source, progress: bool, name: str) -> PairStream:
    """Open the files; their images come with a progress bar, and as many as announced."""
    stream = source.read()
    if stream.num_images > _MAX_IMAGES:
        raise ValueError(f"{source.root}/{source.names[0]}: {stream.num_images} images; at most {_MAX_IMAGES} are read")
    return stream._replace(images=tracked(stream.images, f"converting {name}", stream.num_images, hidden=not progress))


def _check_space(folder: Path, num_images: int) -> None:
    needed, free = num_images * math.prod(IMAGE_SHAPE), shutil.disk_usage(folder).free
    if needed > free:
        raise OSError(errno.ENOSPC, f"{needed} bytes are needed and {free} are free")


def _collect(stream: PairStream, name: str, checksum: str) -> Benchmark:
    """Return a set in memory."""
    shape = (stream.num_images, *IMAGE_SHAPE)
    if math.prod(shape) > _MAX_MEMORY:
        raise ValueError(
            f"benchmark {name}: {stream.num_images} images are too large for the memory; set MASKWISE_CACHE to a "
            f"folder with {math.prod(shape)} free bytes"
        )
    images = np.empty(shape, np.uint8)
    for index, image in enumerate(stream.images):
        images[index] = image
    return Benchmark(images, stream.issame, name, stream.folds, stream.identities, checksum)


def _digest(file: str) -> str:
    with open_regular(file) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _ends(file: str) -> bytes:
    with open_regular(file) as stream:
        beginning = stream.read(_END_BYTES)
        size = stream.seek(0, os.SEEK_END)
        stream.seek(max(size - _END_BYTES, 0))
        return beginning + stream.read(_END_BYTES)
