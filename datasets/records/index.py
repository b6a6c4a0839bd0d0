"""The text files beside a record file: `.idx`, where each key's record begins, and `.lst`, the labels."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from datasets.faces.paths import open_regular
from datasets.records.file import Offsets, RecordFile
from datasets.records.format import PART_BYTES, RecordError

logger = logging.getLogger(__name__)

Keys = NDArray[np.int64]

MAX_LABEL = 2**31
_BLOCK_BYTES = 2**22
_MAX_LINE_BYTES = 2**16
_MAX_DIGITS = 18  # of any number that fits 64 bits


class Index(NamedTuple):
    """Where the records of a file begin.

    Attributes:
        keys: int64 [N] >= 0, ascending, all different.
        offsets: int64 [N], multiples of 4 inside the file.
    """

    keys: Keys
    offsets: Offsets


def read_index(path: Path, file: RecordFile) -> Index:
    """Read an `.idx` file: lines `key<TAB>offset` in any order, with either line end.

    Raises:
        RecordError: if a line has another form, a key comes twice, or an offset cannot be a record's.
    """
    keys: list[Keys] = []
    offsets: list[Offsets] = []
    for number, block in _line_blocks(path):
        table = _parse_clean(block)
        if table is None:
            table = _parse_lines(path, number, block)
        keys.append(table[:, 0].copy())
        offsets.append(table[:, 1].copy())
    if not sum(map(len, keys)):
        raise RecordError(path, "", f"lists no record of {file.path.name}; remove it to have that file scanned instead")
    return _checked(path, Index(_join(keys), _join(offsets)), file)


def rebuild_index(file: RecordFile) -> Index:
    """Find all records of a file by a scan.

    A record's key is its id, which writers set to the key. Where ids come twice (some writers leave them 0), it is the
    record's position in the file.

    Raises:
        RecordError: if the file is damaged.
    """
    offsets = file.scan()
    index = _by_key(Index(file.headers(offsets).ids.view(np.int64), offsets))
    if index.keys[0] < 0 or (index.keys[1:] == index.keys[:-1]).any():  # negative: an id of all 64 bits
        return Index(np.arange(len(offsets)), offsets)
    return index


def read_list(path: Path, keys: Keys) -> NDArray[np.int64]:
    """Return the labels that a `.lst` file gives to keys, int64 [N].

    Two forms exist. mxnet's lines are `key<TAB>label<TAB>...<TAB>path`. InsightFace's are `flag<TAB>path<TAB>label`,
    line n for key n (n - 1 where the keys start at 0).

    Args:
        path: the file.
        keys: int64 [N], ascending.
    Raises:
        RecordError: if a line has another form, a label is not a whole number >= 0, or a key has no line.
    """
    lines = _list_lines(path, first=0 if keys[0] == 0 else 1)
    # The first pair is no line's: every key then has a place at or after it.
    pairs: NDArray[np.int64] = np.fromiter(chain([(-1, -1)], lines), np.dtype("i8,i8")).view(np.int64)
    listed, labels = pairs.reshape(-1, 2).T
    if (listed[1:] < listed[:-1]).any():
        order = np.argsort(listed, kind="stable")
        listed, labels = listed[order], labels[order]
    places = np.searchsorted(listed, keys, side="right") - 1
    found = listed[places] == keys
    if not found.all():
        reason = f"no line for key {keys[np.argmin(found)]}; remove the file to use the labels inside the records"
        raise RecordError(path, "", reason)
    if len(listed) - 1 > len(keys):
        logger.warning("%s: %d lines for %d images; the record file may be cut off", path, len(listed) - 1, len(keys))
    return labels[places]


def _join(blocks: list[NDArray[np.int64]]) -> NDArray[np.int64]:
    """Return the blocks as one array and empty the list, so that memory does not hold millions of numbers twice."""
    joined = np.concatenate(blocks)
    blocks.clear()
    return joined


def _by_key(index: Index) -> Index:
    if (index.keys[1:] >= index.keys[:-1]).all():
        return index
    order = np.argsort(index.keys, kind="stable")
    return Index(index.keys[order], index.offsets[order])


def _line_blocks(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield the number of lines before a block, and the block: whole lines that end with a newline."""
    number = 0
    with _open(path) as stream:
        while block := stream.read(_BLOCK_BYTES) + stream.readline(_MAX_LINE_BYTES):
            block = block.replace(b"\r\n", b"\n")
            block += b"" if block.endswith(b"\n") else b"\n"
            yield number, block
            number += block.count(b"\n")


def _open(path: Path) -> BinaryIO:
    """Open a file; raises RecordError."""
    try:
        return open_regular(path)
    except OSError as error:
        raise RecordError(path, "", f"cannot be opened ({error.strerror})") from error


def _parse_clean(block: bytes) -> NDArray[np.int64] | None:
    """Return the numbers [N, 2] of lines that hold digits, a tab and digits, and None if a line is anything else."""
    characters = np.frombuffer(block, np.uint8)
    ends = np.flatnonzero(characters - np.uint8(ord("0")) > 9)
    separators = characters[ends]
    if len(ends) % 2 or (separators[0::2] != ord("\t")).any() or (separators[1::2] != ord("\n")).any():
        return None
    num_digits = np.diff(ends, prepend=-1) - 1
    if num_digits.min() < 1 or num_digits.max() > _MAX_DIGITS:
        return None
    return np.fromstring(block, np.int64, sep=" ").reshape(-1, 2)


def _parse_lines(path: Path, before: int, block: bytes) -> NDArray[np.int64]:
    """Return the numbers [N, 2] of lines with two whole numbers each, blanks around them, and blank lines between."""
    rows = []
    for number, line in enumerate(block.splitlines(), start=before + 1):
        fields = line.split()
        if not fields:
            continue
        if len(fields) != 2 or not all(field.isdigit() and len(field) <= _MAX_DIGITS for field in fields):
            raise RecordError(path, f"line {number}", f"expected 'key<TAB>offset', got {_shorten(line)}")
        rows.append((int(fields[0]), int(fields[1])))
    return np.array(rows, np.int64).reshape(-1, 2)


def _checked(path: Path, index: Index, file: RecordFile) -> Index:
    outside = (index.offsets % 4 != 0) | (index.offsets > file.size - PART_BYTES)
    if outside.any():
        key, offset = (int(column[np.argmax(outside)]) for column in index)
        reason = f"no record can begin at byte {offset} of {file.path.name}, which has {file.size} bytes"
        raise RecordError(path, f"key {key}", f"{reason} ({int(outside.sum())} such keys)")
    index = _by_key(index)
    twice = np.flatnonzero(index.keys[1:] == index.keys[:-1])
    if twice.size:
        raise RecordError(path, f"key {index.keys[twice[0]]}", f"comes twice ({twice.size} such keys)")
    return index


def _list_lines(path: Path, first: int) -> Iterator[tuple[int, int]]:
    """Yield the key and the label of every line that is not blank."""
    with _open(path) as stream:
        lines = iter(lambda: stream.readline(_MAX_LINE_BYTES), b"")
        for number, line in enumerate(lines, start=1):
            if line.isspace():
                continue
            fields = line.split(b"\t")
            try:
                if is_number(fields[1]):
                    yield _whole(fields[0]), _whole(fields[1])
                else:
                    yield number - 1 + first, _whole(fields[2])
            except (ValueError, IndexError) as error:
                reason = f"expected 'key<TAB>label<TAB>path' or 'flag<TAB>path<TAB>label', got {_shorten(line)}"
                raise RecordError(path, f"line {number}", reason) from error


def is_number(field: bytes) -> bool:
    """Return whether a field of a list is a number."""
    try:
        float(field)
    except ValueError:
        return False
    return True


def _whole(field: bytes) -> int:
    value = float(field)
    if not (0 <= value < MAX_LABEL and value.is_integer()):
        raise ValueError(field)
    return int(value)


def _shorten(line: bytes) -> str:
    text = line.strip().decode("utf-8", "replace")
    return repr(text if len(text) <= 60 else text[:60] + "...")
