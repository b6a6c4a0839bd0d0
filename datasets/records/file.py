"""A RecordIO file as one memory map: single records, the headers of many at once, a scan for all of them."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from datasets.progress import tracked
from datasets.records.format import (
    FIRST,
    HEADER_BYTES,
    KIND_SHIFT,
    LAST,
    MAGIC,
    MAX_LENGTH,
    MIDDLE,
    PART_BYTES,
    WHOLE,
    Record,
    RecordError,
    padded,
    read_payload,
    read_record,
)

Offsets = NDArray[np.int64]

_HEADERS_AT_ONCE = 2**18
_WORDS_AT_ONCE = 2**22


class Headers(NamedTuple):
    """What the headers of N records say.

    Attributes:
        labels: float32 [N, K], the first K labels of each, NaN where a record has fewer.
        ids: uint64 [N].
        has_payload: bool [N].
    """

    labels: NDArray[np.float32]
    ids: NDArray[np.uint64]
    has_payload: NDArray[np.bool_]

    def take(self, rows: slice | NDArray[np.int64] | NDArray[np.bool_]) -> Headers:
        """Return the chosen rows; a slice gives views."""
        return Headers(self.labels[rows], self.ids[rows], self.has_payload[rows])


class RecordFile:
    """A record file that is mapped into memory, and nothing else: forked processes share it.

    Attributes:
        path: the file.
        size: its bytes.
    Raises:
        RecordError: if it cannot be opened or is too short to hold a record.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            # Asked first, because opening a pipe would wait for its other end.
            if not path.is_file():
                raise RecordError(path, "", "is not a file" if path.exists() else "does not exist")
            with path.open("rb") as stream:
                self.size = stream.seek(0, 2)
                if self.size < PART_BYTES + HEADER_BYTES:
                    raise RecordError(path, "", f"{self.size} bytes are too few for a record")
                self._map = mmap.mmap(stream.fileno(), self.size, access=mmap.ACCESS_READ)
        except OSError as error:
            raise RecordError(path, "", f"cannot be opened ({error.strerror})") from error
        self._words = np.frombuffer(self._map, "<u4", self.size // 4)

    def expect_random_reads(self) -> None:
        """Let the system read what is asked for, and not, as it would, megabytes around each record for nothing.

        After what goes through the whole file: that is faster when the system reads ahead.
        """
        if hasattr(mmap, "MADV_RANDOM"):
            self._map.madvise(mmap.MADV_RANDOM)

    def read(self, offset: int) -> Record:
        """Return the record that begins at an offset; raises RecordError."""
        return read_record(self._map, offset, self.path)

    def payload(self, offset: int) -> memoryview:
        """Return the payload of the record that begins at an offset, without a copy; raises RecordError."""
        return read_payload(self._map, offset, self.path)

    def headers(self, offsets: Offsets, num_labels: int = 1) -> Headers:
        """Return what the headers of many records say, without reading their payloads; a bar shows the progress.

        Args:
            offsets: where the records begin, multiples of 4 inside the file.
            num_labels: K of `Headers.labels`.
        Raises:
            RecordError: if no sound record begins at one of the offsets.
        """
        if (offsets[1:] < offsets[:-1]).any():
            # In the order of the file: a disk that seeks for each of millions of headers takes hours.
            order = np.argsort(offsets)
            return self.headers(offsets[order], num_labels).take(np.argsort(order))
        num = len(offsets)
        labels = np.full((num, num_labels), np.nan, np.float32)
        headers = Headers(labels, np.empty(num, np.uint64), np.empty(num, np.bool_))
        for part in _slices(num, _HEADERS_AT_ONCE, f"Reading headers of {self.path.name}"):
            self._read_whole(offsets[part], headers.take(part))
        return headers

    def _read_whole(self, offsets: Offsets, rows: Headers) -> None:
        """Fill rows of headers: all records in one part at once, then the others one by one."""

        def word(number: int) -> NDArray[np.uint32]:
            return self._words.take(offsets // 4 + number, mode="clip")

        length, flag = word(1).astype(np.int64), word(2)
        payload_start = HEADER_BYTES + 4 * flag.astype(np.int64)
        fits = offsets + PART_BYTES + padded(length) <= self.size
        # The kind of a whole record is 0, so that the word is its length.
        sound = (word(0) == MAGIC) & (length <= MAX_LENGTH) & (payload_start <= length) & fits
        for column in range(rows.labels.shape[1]):
            label = word(8 + column).view(np.float32)
            rows.labels[:, column] = np.where(flag > column, label, np.nan)
        scalar = flag == 0
        rows.labels[scalar, 0] = word(3).view(np.float32)[scalar]
        rows.ids[:] = word(4) | word(5).astype(np.uint64) << np.uint64(32)
        rows.has_payload[:] = length > payload_start
        for row in np.flatnonzero(~sound).tolist():
            self._read_other(int(offsets[row]), row, rows)

    def _read_other(self, offset: int, row: int, rows: Headers) -> None:
        record = self.read(offset)
        labels = np.atleast_1d(record.label)[: rows.labels.shape[1]]
        rows.labels[row] = np.nan
        rows.labels[row, : len(labels)] = labels
        rows.ids[row] = record.id
        rows.has_payload[row] = bool(record.payload)

    def scan(self) -> Offsets:
        """Return where each record begins, in the order of the file; a bar shows the progress.

        Every magic word at a multiple of 4 begins a part, because writers cut it out of the data. Where one does not
        fit into the chain of lengths, its writer did not, and the chain decides.

        Raises:
            RecordError: if the parts do not follow each other from the first byte to the last.
        """
        starts = self._find_magic()
        if starts.size == 0 or starts[0]:
            raise RecordError(self.path, "byte 0", f"expected the magic word 0x{MAGIC:08x} of a first record")
        words = self._words.take(starts // 4 + 1, mode="clip")
        ends = padded((words & MAX_LENGTH).astype(np.int64))
        ends += starts + PART_BYTES
        if ends[-1] != self.size or (ends[:-1] != starts[1:]).any():
            chain = self._follow(starts, ends)
            starts, words = starts[chain], words[chain]
        kinds = words >> KIND_SHIFT
        self._check_kinds(starts, kinds)
        return starts[(kinds == WHOLE) | (kinds == FIRST)]

    def _find_magic(self) -> Offsets:
        found = [
            np.flatnonzero(self._words[part] == MAGIC) + part.start
            for part in _slices(len(self._words), _WORDS_AT_ONCE, f"Scanning {self.path.name} for records")
        ]
        return np.concatenate(found) * 4

    def _follow(self, starts: Offsets, ends: Offsets) -> list[int]:
        """Return which starts the lengths lead to, from the first one on."""
        following = np.searchsorted(starts, ends)
        linked = (np.append(starts, self.size)[following] == ends).tolist()
        chain, place = [], 0
        steps = following.tolist()
        while place < len(steps):
            if not linked[place]:
                reason = f"this part leads to byte {ends[place]}, where none begins; the file has {self.size} bytes"
                raise RecordError(self.path, f"byte {starts[place]}", reason)
            chain.append(place)
            place = steps[place]
        return chain

    def _check_kinds(self, starts: Offsets, kinds: NDArray[np.integer]) -> None:
        """Refuse parts that continue nothing, records without their last part and unknown kinds."""
        is_open = (kinds == FIRST) | (kinds == MIDDLE)
        after_open = np.append(False, is_open[:-1])
        wrong = np.flatnonzero(np.where(after_open, (kinds != MIDDLE) & (kinds != LAST), kinds > FIRST))
        if wrong.size:
            place = int(wrong[0])
            before = f"after one of kind {kinds[place - 1]}" if place else "at the start"
            raise RecordError(self.path, f"byte {starts[place]}", f"a part of kind {kinds[place]} {before}")
        if is_open[-1]:
            raise RecordError(self.path, f"byte {starts[-1]}", "the file ends within a record")


def _slices(total: int, step: int, description: str) -> Iterator[slice]:
    """Yield the parts of a range; a bar shows the progress where there are several."""
    starts = range(0, total, step)
    for start in tracked(starts, description, hidden=len(starts) < 2, transient=True):
        yield slice(start, start + step)
