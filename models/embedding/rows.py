"""Rows of embeddings that several processes fill, each at its place, in files that have their full size from the start.

A batch is done when its mark is the CRC-32 of its rows: what was killed in the middle, or lost in a power cut, is found
by that and computed again.
"""

from __future__ import annotations

import errno
import io
import os
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from system.files import naming

EMBEDDINGS, NORMS, QUALITY, MARKS = "embeddings.npy", "norms.npy", "quality.npy", "marks.bin"
PARTS = (EMBEDDINGS, NORMS, QUALITY, MARKS)
_CANNOT_RESERVE = (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS, errno.ENOTSUP)
_MARK_BYTES = 4


class Rows(NamedTuple):
    """What is known of some images.

    Attributes:
        embeddings: float16 or float32 [B, D], of unit length.
        norms: float32 [B], their lengths before; NaN: the image gives none.
        quality: float32 [B], share of the face that is visible; NaN: not known.
    """

    embeddings: NDArray[np.floating]
    norms: NDArray[np.float32]
    quality: NDArray[np.float32]


class RowFiles:
    """The files, for N images in batches of a size.

    Args:
        folder: where they lie.
        count, dim: N and D.
        dtype: of the embeddings.
        batch_size: images of every batch but the last.
    """

    def __init__(self, folder: Path, count: int, dim: int, dtype: str, batch_size: int) -> None:
        self.folder = folder
        self.count = count
        self.batch_size = batch_size
        self._kinds = {EMBEDDINGS: (np.dtype(dtype), dim), NORMS: (np.dtype("f4"), 0), QUALITY: (np.dtype("f4"), 0)}

    @property
    def num_batches(self) -> int:
        """Number of batches."""
        return -(-self.count // self.batch_size)

    def span(self, batch: int) -> tuple[int, int]:
        """Return the first image of a batch and the one after its last."""
        return batch * self.batch_size, min((batch + 1) * self.batch_size, self.count)

    def sizes(self) -> dict[str, int]:
        """Return the bytes of each file."""
        sizes = {name: len(self.header(name)) + self.count * self._row_bytes(name) for name in self._kinds}
        return {**sizes, MARKS: self.num_batches * _MARK_BYTES}

    def header(self, name: str) -> bytes:
        """Return the first bytes of a .npy file."""
        kind, dim = self._kinds[name]
        stream = io.BytesIO()
        shape = (self.count, dim) if dim else (self.count,)
        content = {"descr": kind.newbyteorder("<").str, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(stream, content)
        return stream.getvalue()

    def reserve(self) -> None:
        """Make the files at their full size, their room on the disk reserved where the system can.

        Raises:
            OSError: if there is not the room.
        """
        for name, size in self.sizes().items():
            path = self.folder / name
            with naming(path), path.open("r+b") as file:
                file.truncate(size)
                _reserve(file.fileno(), size)
                if name != MARKS:
                    file.write(self.header(name))
                file.flush()
                os.fsync(file.fileno())

    def write(self, batch: int, rows: Rows) -> None:
        """Write the rows of a batch, then its mark."""
        start, _ = self.span(batch)
        for name, values in zip(self._kinds, rows, strict=True):
            self._write(name, len(self.header(name)) + start * self._row_bytes(name), _bytes(values, self._kinds[name]))
        mark = self._mark(rows)
        self._write(MARKS, batch * _MARK_BYTES, mark.to_bytes(_MARK_BYTES, "little"))

    def is_done(self, batch: int) -> bool:
        """Return whether a batch is whole."""
        mark = self._read(MARKS, batch * _MARK_BYTES, _MARK_BYTES)
        return mark != bytes(_MARK_BYTES) and int.from_bytes(mark, "little") == self._mark(self.read(batch))

    def marked(self) -> int:
        """Return how many batches have a mark; others may be filling the files."""
        return int(np.count_nonzero(np.frombuffer((self.folder / MARKS).read_bytes(), "<u4")))

    def read(self, batch: int) -> Rows:
        """Return the rows of a batch."""
        start, stop = self.span(batch)
        return Rows(*(self._rows(name, start, stop) for name in self._kinds))

    def _rows(self, name: str, start: int, stop: int) -> NDArray:
        kind, dim = self._kinds[name]
        row_bytes = self._row_bytes(name)
        data = self._read(name, len(self.header(name)) + start * row_bytes, (stop - start) * row_bytes)
        values = np.frombuffer(data, kind.newbyteorder("<"))
        return values.reshape(-1, dim) if dim else values

    def _row_bytes(self, name: str) -> int:
        kind, dim = self._kinds[name]
        return kind.itemsize * max(1, dim)

    def _mark(self, rows: Rows) -> int:
        checksum = 0
        for values, kind in zip(rows, self._kinds.values(), strict=True):
            checksum = zlib.crc32(_bytes(values, kind), checksum)
        return checksum or 1  # 0: not done

    def _write(self, name: str, offset: int, data: bytes) -> None:
        path = self.folder / name
        with naming(path), path.open("r+b", buffering=0) as file:
            file.seek(offset)
            view = memoryview(data)
            while view:
                view = view[file.write(view) :]

    def _read(self, name: str, offset: int, size: int) -> bytes:
        with (self.folder / name).open("rb") as file:
            file.seek(offset)
            return file.read(size)


def _bytes(values: NDArray, kind: tuple[np.dtype, int]) -> bytes:
    return np.ascontiguousarray(values, kind[0].newbyteorder("<")).tobytes()


def _reserve(number: int, size: int) -> None:
    if hasattr(os, "posix_fallocate") and size:
        try:
            os.posix_fallocate(number, 0, size)
        except OSError as error:
            if error.errno not in _CANNOT_RESERVE:
                raise
