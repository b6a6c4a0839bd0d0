"""Encoded images in portions that travel to other processes: files of a folder, records of a file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from datasets.faces.image_folder import ImageFolderDataset
from datasets.faces.images import MAX_FILE_BYTES, UnreadableImageError, decode_image, fit_image
from datasets.faces.paths import open_regular
from datasets.records.dataset import RecordDataset
from datasets.records.file import RecordFile
from datasets.records.format import RecordError
from datasets.sample import Image

PORTION = 64


class Payload(NamedTuple):
    """An encoded image.

    Attributes:
        location: its file, or the record file and the byte in it.
        data: the bytes; empty where they cannot be had.
        reason: why not, else empty.
    """

    location: str
    data: bytes
    reason: str = ""


@dataclass(frozen=True)
class FilePortion:
    """Some files of a folder, by their names relative to it."""

    root: Path
    names: list[str]

    def read(self) -> Iterator[Payload]:
        """Yield the content of each file."""
        return (_read_file(self.root / name) for name in self.names)


@dataclass(frozen=True)
class RecordPortion:
    """Some records of a file, by their first bytes."""

    path: Path
    offsets: list[int]

    def read(self) -> Iterator[Payload]:
        """Yield the payload of each record."""
        return (_read_record(self.path, offset) for offset in self.offsets)


Portion = FilePortion | RecordPortion


def portions(dataset: ImageFolderDataset | RecordDataset, indices: NDArray[np.int64] | range) -> Iterator[Portion]:
    """Yield the images at some positions of a data set, in their order, at most PORTION together."""
    for start in range(0, len(indices), PORTION):
        part = [int(index) for index in indices[start : start + PORTION]]
        if isinstance(dataset, RecordDataset):
            yield RecordPortion(dataset.paths.record, dataset.offsets[part].tolist())
        else:
            yield FilePortion(dataset.root, [dataset.paths.relative(index) for index in part])


def decode_payload(payload: Payload) -> tuple[Image | None, str]:
    """Return an image as uint8 [112, 112, 3] RGB, or None and why it cannot be read."""
    if payload.reason:
        return None, payload.reason
    try:
        return fit_image(decode_image(payload.data, payload.location)), ""
    except UnreadableImageError as error:
        return None, error.reason


def _read_file(path: Path) -> Payload:
    try:
        with open_regular(path) as stream:
            data = stream.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        return Payload(str(path), b"", error.strerror or type(error).__name__)
    if len(data) > MAX_FILE_BYTES:
        return Payload(str(path), b"", f"larger than {MAX_FILE_BYTES} bytes")
    return Payload(str(path), data, "" if data else "the file is empty")


def _read_record(path: Path, offset: int) -> Payload:
    try:
        state = path.stat()
        data = _open(path, (state.st_dev, state.st_ino, state.st_mtime_ns)).read(offset).payload
    except RecordError as error:
        return Payload(error.location, b"", error.reason)
    except OSError as error:
        return Payload(f"{path}, byte {offset}", b"", error.strerror or type(error).__name__)
    return Payload(f"{path}, byte {offset}", data, "" if data else "the record holds no image")


@lru_cache(maxsize=4)
def _open(path: Path, state: tuple[int, int, int]) -> RecordFile:
    """Open a record file once in each process; a relative path may name another one later."""
    return RecordFile(path)
