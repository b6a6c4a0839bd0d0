"""The format of RecordIO files (mxnet 1.9.1): records framed in parts, their 24-byte header and labels.

A part is the magic word, a word with the part's kind in its top 3 bits and its length in the others, the bytes, and
zeros up to a multiple of 4. Where the magic word occurs in a record at a multiple of 4, the writer cuts the record
there and leaves the word out. A record is (u32 flag, f32 label, u64 id, u64 id2), `flag` f32 labels, and the payload;
all little-endian.
"""

from __future__ import annotations

import struct
from mmap import mmap
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

MAGIC = 0xCED7230A
KIND_SHIFT = 29
MAX_LENGTH = 2**KIND_SHIFT - 1
WHOLE, FIRST, MIDDLE, LAST = range(4)
PART_BYTES = 8
HEADER_BYTES = 24
# Labels and keys are stored as float32, which holds every whole number up to this one.
MAX_EXACT = 2**24

_MAGIC_BYTES = struct.pack("<I", MAGIC)
_PART = struct.Struct("<II")
_HEADER = struct.Struct("<IfQQ")
_START = struct.Struct("<III")

Length = TypeVar("Length", int, NDArray[np.int64])


class RecordError(ValueError):
    """A record file, or a file that belongs to it, that cannot be read.

    Attributes:
        path: the file.
        place: where in it, such as "byte 40" or "line 3"; empty for the file as a whole.
        reason: what is wrong there.
    """

    def __init__(self, path: Path, place: str, reason: str) -> None:
        super().__init__(path, place, reason)
        self.path = path
        self.place = place
        self.reason = reason

    @property
    def location(self) -> str:
        """The file and the place in it."""
        return f"{self.path}, {self.place}" if self.place else str(self.path)

    def __str__(self) -> str:
        return f"{self.location}: {self.reason}"


class Record(NamedTuple):
    """One record; `encode_record(*record)` gives its bytes back.

    Attributes:
        label: float32, a scalar (shape []) or an array [L], L >= 1.
        payload: usually an encoded image.
        id, id2: unsigned 64-bit; id is usually the record's key.
    """

    label: NDArray[np.float32]
    payload: bytes
    id: int = 0
    id2: int = 0


def encode_record(label: ArrayLike, payload: bytes, id: int = 0, id2: int = 0) -> bytes:
    """Return the bytes that mxnet 1.9.1 writes for a record, see `Record`; the label is a number or a list of numbers.

    Raises:
        ValueError: if the record is longer than a part can be, or an id does not fit 64 bits.
    """
    labels = np.asarray(label, "<f4")
    for number in (id, id2):
        if not 0 <= number < 2**64:
            raise ValueError(f"encode_record: ids must be in [0, 2**64), got {number}")
    if labels.ndim == 0:
        return _frame(_HEADER.pack(0, labels, id, id2) + payload)
    return _frame(_HEADER.pack(labels.size, 0.0, id, id2) + labels.tobytes() + payload)


def read_record(buffer: bytes | mmap, offset: int, path: Path) -> Record:
    """Return the record that begins at an offset.

    Args:
        buffer: the content of the file.
        path: the file, for the error.
    Raises:
        RecordError: if no sound record begins there.
    """
    data, start, payload, end = _locate(buffer, offset, path)
    flag, scalar, id, id2 = _HEADER.unpack_from(data, start)
    label = np.frombuffer(data[start + HEADER_BYTES : payload], "<f4") if flag else np.float32(scalar)
    return Record(np.asarray(label, np.float32), data[payload:end], id, id2)


def read_payload(buffer: bytes | mmap, offset: int, path: Path) -> memoryview:
    """Return the payload of `read_record`, in place where the record is whole, without the rest of it."""
    # Nearly every record is whole and sound: one look tells. What else there is to say, `_locate` says.
    if 0 <= offset <= len(buffer) - PART_BYTES - HEADER_BYTES and offset % 4 == 0:
        magic, length, flag = _START.unpack_from(buffer, offset)
        payload, end = offset + PART_BYTES + HEADER_BYTES + 4 * flag, offset + PART_BYTES + length
        # The kind of a whole record is 0, so that the word is its length.
        if magic == MAGIC and length <= MAX_LENGTH and payload <= end and padded(end) <= len(buffer):
            return memoryview(buffer)[payload:end]
    data, _, payload, end = _locate(buffer, offset, path)
    return memoryview(data)[payload:end]


def padded(length: Length) -> Length:
    """Return lengths with the bytes that fill them up to multiples of 4."""
    return (length + 3) & ~3


def _frame(data: bytes) -> bytes:
    if len(data) > MAX_LENGTH:
        raise ValueError(f"encode_record: a record has at most {MAX_LENGTH} bytes, got {len(data)}")
    parts: list[bytes] = []
    start, found = 0, data.find(_MAGIC_BYTES)
    while found >= 0:
        if found % 4 == 0:
            parts.append(_part(MIDDLE if parts else FIRST, data[start:found]))
            start = found + 4
        found = data.find(_MAGIC_BYTES, found + 1)
    parts.append(_part(LAST if parts else WHOLE, data[start:]))
    return b"".join(parts)


def _part(kind: int, data: bytes) -> bytes:
    return _PART.pack(MAGIC, kind << KIND_SHIFT | len(data)) + data + bytes(-len(data) % 4)


def _locate(buffer: bytes | mmap, offset: int, path: Path) -> tuple[bytes | mmap, int, int, int]:
    """Return the bytes that hold the record at an offset, where in them it and its payload begin, and where it ends."""
    data: bytes | mmap = buffer
    kind, start, end = _read_part(buffer, offset, path)
    if kind != WHOLE:
        data = _join(buffer, offset, path)
        start, end = 0, len(data)
    if end - start < HEADER_BYTES:
        raise RecordError(path, f"byte {offset}", f"a record of {end - start} bytes, a header has {HEADER_BYTES}")
    flag, *_ = _HEADER.unpack_from(data, start)
    payload = start + HEADER_BYTES + 4 * flag
    if payload > end:
        raise RecordError(path, f"byte {offset}", f"a record of {end - start} bytes promises {flag} labels")
    return data, start, payload, end


def _join(buffer: bytes | mmap, offset: int, path: Path) -> bytes:
    """Return the bytes of the record that is cut into parts from an offset on, the magic words put back."""
    kind, start, end = _read_part(buffer, offset, path)
    if kind != FIRST:
        raise RecordError(path, f"byte {offset}", f"no record begins here, but a part of kind {kind}")
    data = bytearray(buffer[start:end])
    while kind != LAST:
        position = start + padded(end - start)
        kind, start, end = _read_part(buffer, position, path)
        if kind not in (MIDDLE, LAST):
            reason = f"the record from byte {offset} on lacks its continuation; here is a part of kind {kind}"
            raise RecordError(path, f"byte {position}", reason)
        if len(data) + 4 + end - start > MAX_LENGTH:
            raise RecordError(path, f"byte {offset}", f"the parts of this record exceed {MAX_LENGTH} bytes")
        data += _MAGIC_BYTES
        data += buffer[start:end]
    return bytes(data)


def _read_part(buffer: bytes | mmap, position: int, path: Path) -> tuple[int, int, int]:
    """Return a part's kind and where its bytes start and end."""
    size = len(buffer)
    if not 0 <= position <= size - PART_BYTES or position % 4:
        raise RecordError(path, f"byte {position}", f"no part of a record can begin here; the file has {size} bytes")
    magic, word = _PART.unpack_from(buffer, position)
    kind, length = word >> KIND_SHIFT, word & MAX_LENGTH
    start = position + PART_BYTES
    if magic != MAGIC:
        raise RecordError(path, f"byte {position}", f"expected the magic word 0x{MAGIC:08x}, got 0x{magic:08x}")
    if kind > LAST:
        raise RecordError(path, f"byte {position}", f"a part's kind is 0 to 3, got {kind}")
    if kind in (FIRST, MIDDLE) and length % 4:
        raise RecordError(path, f"byte {position}", f"a record is cut at multiples of 4 bytes, this part has {length}")
    if start + padded(length) > size:
        raise RecordError(path, f"byte {position}", f"a part of {length} bytes does not fit the file of {size} bytes")
    return kind, start, start + length
