"""Arrays of a MATLAB file of version 5 (-v6, -v7), read as data: every size is checked before memory is taken for it.

What the ground truth of WIDER FACE needs: numbers, text and cells. SciPy takes gigabytes where a file of 100 bytes asks
for them.

Reference: The MathWorks, "MAT-File Format", level 5.
"""

from __future__ import annotations

import math
import stat
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

#: Numbers as an array in MATLAB's shape, text as str, a cell array as a list in column order.
Value: TypeAlias = "NDArray[Any] | str | list[Any]"

MAX_BYTES = 2**28  # of a file, and of what it holds when it is decompressed: 170 times WIDER FACE's
_MAX_DEPTH = 8
_HEADER, _TAG = 128, 8
_MATRIX, _COMPRESSED = 14, 15
_CELL, _CHAR, _NUMBERS = 1, 4, range(6, 16)
_COMPLEX = 0x0800
_NUMBER_TYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_ENCODINGS = {1: "latin-1", 2: "latin-1", 4: "utf-16", 16: "utf-8", 17: "utf-16", 18: "utf-32"}


class _Element(NamedTuple):
    kind: int
    data: memoryview


class _MatError(ValueError):
    """What is wrong with the file, without its name."""


def read_mat(path: Path, names: Sequence[str]) -> dict[str, Value]:
    """Return some of the arrays in a MATLAB file.

    Args:
        path: a file of version 5, compressed or not, of either byte order.
        names: of the arrays; what else is in the file is passed over.
    Raises:
        ValueError: naming the file, if it cannot be read, is of another version (7.3 is HDF5), is cut off or damaged,
            holds or expands to more than MAX_BYTES, or lacks one of the arrays or has it in another form.
    """
    try:
        found = dict(_arrays(_content(path), names))
    except (_MatError, zlib.error, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: no MATLAB file that can be read: {error}") from error
    if missing := [name for name in names if name not in found]:
        raise ValueError(f"{path}: holds no {' and no '.join(missing)}; it is another MATLAB file")
    return found


def _content(path: Path) -> memoryview:
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise _MatError("it is no regular file")
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise _MatError(error.strerror or type(error).__name__) from error
    if len(data) > MAX_BYTES:
        raise _MatError(f"it is larger than {MAX_BYTES} bytes")
    if data.startswith((b"\x89HDF", b"MATLAB 7.3")):
        raise _MatError("it is of version 7.3, which is HDF5; save it in MATLAB with '-v7'")
    if len(data) < _HEADER or data[126:128] not in (b"IM", b"MI"):
        raise _MatError("it has no heading of version 5")
    return memoryview(data)


def _arrays(content: memoryview, names: Sequence[str]) -> Iterator[tuple[str, Value]]:
    """Yield the wanted arrays of a file with their names."""
    order = "<" if bytes(content[126:128]) == b"IM" else ">"
    room = MAX_BYTES
    for element in _elements(content[_HEADER:], order):
        if element.kind == _COMPRESSED:
            unpacked = zlib.decompressobj().decompress(element.data, room + 1)
            room -= len(unpacked)
            if room < 0:
                raise _MatError(f"it expands to more than {MAX_BYTES} bytes")
            element = next(_elements(memoryview(unpacked), order), _Element(0, element.data))
        if element.kind == _MATRIX and (name := _name(element.data, order)) in names:
            yield name, _array(element.data, order, 0)


def _elements(data: memoryview, order: str) -> Iterator[_Element]:
    """Yield the elements of a file or an array."""
    words = np.dtype(f"{order}u4")
    place = 0
    while place < len(data):
        if len(data) - place < _TAG:
            raise _MatError("it is cut off in the middle")
        kind, size = (int(word) for word in np.frombuffer(data, words, 2, place))
        start = place + _TAG
        if kind >> 16:  # up to four bytes in the tag itself
            kind, size, start = kind & 0xFFFF, kind >> 16, place + 4
            place += _TAG
        else:
            # All but what is compressed is filled up to eight bytes.
            place = start + (size if kind == _COMPRESSED else -(-size // 8) * 8)
        if start + size > len(data) or (start == place - 4 and size > 4):
            raise _MatError("it is cut off in the middle")
        yield _Element(kind, data[start : start + size])


def _name(data: memoryview, order: str) -> str:
    return bytes(_parts(data, order)[2].data).decode("latin-1")


def _parts(data: memoryview, order: str) -> list[_Element]:
    """Return flags, shape and name of an array, and what follows."""
    parts = list(_elements(data, order))
    if len(parts) < 3 or len(parts[0].data) < 4 or parts[1].kind != 5 or len(parts[1].data) % 4:
        raise _MatError("an array has no shape or no name")
    return parts


def _array(data: memoryview, order: str, depth: int) -> Value:
    """Return the value of an array."""
    if not data:  # an empty cell
        return np.zeros((0, 0))
    flags_part, shape_part, _, *values = _parts(data, order)
    flags = int(np.frombuffer(flags_part.data, f"{order}u4", 1)[0])
    shape = np.frombuffer(shape_part.data, f"{order}i4").tolist()
    kind = flags & 0xFF
    if min(shape, default=-1) < 0:
        raise _MatError(f"an array has the shape {shape}")
    if kind == _CELL:
        if depth == _MAX_DEPTH:
            raise _MatError(f"cells are nested deeper than {_MAX_DEPTH}")
        if math.prod(shape) != len(values) or any(value.kind != _MATRIX for value in values):
            raise _MatError(f"{len(values)} of the {math.prod(shape)} cells are there")
        return [_array(value.data, order, depth + 1) for value in values]
    if kind not in (_CHAR, *_NUMBERS) or flags & _COMPLEX or len(values) != 1:
        raise _MatError("an array is neither numbers nor text nor cells")
    return _text(values[0], shape, order) if kind == _CHAR else _numbers(values[0], shape, order)


def _text(value: _Element, shape: list[int], order: str) -> str:
    if value.kind not in _ENCODINGS:
        raise _MatError(f"text is of the unknown type {value.kind}")
    encoding = _ENCODINGS[value.kind]
    if encoding in ("utf-16", "utf-32"):
        encoding += "-le" if order == "<" else "-be"
    text = bytes(value.data).decode(encoding)
    if len(shape) != 2 or shape[0] > 1 or math.prod(shape) != len(text):
        raise _MatError(f"text of {len(text)} characters has the shape {shape}")
    return text


def _numbers(value: _Element, shape: list[int], order: str) -> NDArray[Any]:
    dtype = np.dtype(order + _NUMBER_TYPES[value.kind]) if value.kind in _NUMBER_TYPES else None
    if dtype is None or len(value.data) != math.prod(shape) * dtype.itemsize:
        raise _MatError(f"an array of shape {shape} has {len(value.data)} bytes of type {value.kind}")
    return np.frombuffer(value.data, dtype).reshape(shape, order="F")
