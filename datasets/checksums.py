"""Checksums of the files of a folder that we wrote, so that a damaged one is found when it is opened."""

from __future__ import annotations

import json
import zlib
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import NamedTuple

from datasets.faces.paths import open_regular
from system.files import write_text

CHECKSUMS = "checksums.json"
# Small enough that a few threads share even one file.
_BLOCK_BYTES = 2**22
_MAX_BYTES = 2**26
_THREADS = 4


class _Block(NamedTuple):
    """What is known of one block of a file: the file's size, the number of the block, and its checksum."""

    path: Path
    size: int
    number: int
    checksum: int


def write_checksums(folder: Path) -> None:
    """Write `checksums.json` into a folder: size and CRC-32 of every 4 MiB of each file below it.

    Raises:
        OSError: if it cannot be written.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    content = {path.relative_to(folder).as_posix(): _describe(path) for path in files}
    write_text(folder / CHECKSUMS, json.dumps({"files": content, "crc32": _of_text(content)}))


def verify(folder: Path) -> None:
    """Compare the files of a folder with its checksums, at about 2 GB/s with two cores or more.

    Raises:
        ValueError: if they differ, a file is missing, or the checksums themselves are damaged or absent; names it.
    """
    tasks = _read(folder)
    with ThreadPool(min(_THREADS, len(tasks) or 1)) as pool:
        fault = next(filter(None, pool.imap(_fault, tasks, chunksize=8)), None)
    if fault is not None:
        raise ValueError(fault)


def _read(folder: Path) -> list[_Block]:
    """Return what the checksums of a folder say."""
    place = folder / CHECKSUMS
    try:
        with open_regular(place) as stream:
            content = json.loads(stream.read(_MAX_BYTES))
        if content["crc32"] == _of_text(content["files"]):
            files = content["files"].items()
            return [
                _Block(folder / name, int(size), number, block)
                for name, (size, blocks) in files
                for number, block in enumerate(blocks or [0])
            ]
    except OSError as error:
        raise ValueError(f"{place}: cannot be read ({error.strerror})") from error
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        pass
    raise ValueError(f"{place}: damaged")


def _of_text(files: object) -> int:
    """Return the checksum of the checksums."""
    return zlib.crc32(json.dumps(files).encode())


def _describe(path: Path) -> list[object]:
    size = path.stat().st_size
    return [size, [_checksum(path, number) for number in range(-(-size // _BLOCK_BYTES))]]


def _checksum(path: Path, number: int) -> int:
    with open_regular(path) as stream:
        stream.seek(number * _BLOCK_BYTES)
        return zlib.crc32(stream.read(_BLOCK_BYTES))


def _fault(block: _Block) -> str | None:
    """Return what is wrong with one block of a file, None if nothing is."""
    path, size, number, expected = block
    try:
        num_bytes = path.stat().st_size
        if num_bytes != size:
            return f"{path}: damaged, it has {num_bytes} bytes instead of {size}"
        if size and _checksum(path, number) != expected:
            return f"{path}: damaged between byte {number * _BLOCK_BYTES} and {min((number + 1) * _BLOCK_BYTES, size)}"
    except (OSError, ValueError) as error:  # ValueError: no name of a file
        return f"{path}: cannot be read ({error.strerror if isinstance(error, OSError) else error})"
    return None
