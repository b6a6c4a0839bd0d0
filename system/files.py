"""Files written as a whole, and room for them: what stands under their names is neither opened nor lost."""

from __future__ import annotations

import errno
import logging
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a hidden name beside `path` for a file that gets the name of `path` after the block, or goes with an error.

    A pipe, a device or a link that stands there gives way unopened, a folder is set aside.

    Args:
        path: its folder exists.
    Raises:
        OSError: if the folder cannot be written; of a full disk too it names the file.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with naming(path):
            temporary.unlink(missing_ok=True)  # of a process that was killed and had this one's number
            yield temporary
            if path.is_dir() and not path.is_symlink():
                set_aside(path, "is a folder")
            temporary.replace(path)
            sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_write(path: Path, mode: str = "w", newline: str | None = None) -> Iterator[Any]:
    """Give a stream to what becomes `path`, synced, as by `replacing`: it is the old file or the whole new one.

    Args:
        path: its folder exists.
        mode: "w", "wb" or "w+b"; text is UTF-8.
        newline: as of `open`.
    Raises:
        OSError: if it cannot be written.
    """
    encoding = None if "b" in mode else "utf-8"
    with replacing(path) as temporary:
        with temporary.open(mode.replace("w", "x"), encoding=encoding, newline=newline) as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())


def write_text(path: Path, text: str) -> None:
    """Write a small text file by `atomic_write`."""
    with atomic_write(path) as stream:
        stream.write(text)


def remove_unfinished(folder: Path) -> None:
    """Delete what killed processes left of files that they were writing into a folder."""
    for path in folder.glob(".*.tmp"):
        if path.is_symlink() or not path.is_dir():
            path.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Let the names in a folder survive a power failure."""
    if not hasattr(os, "O_DIRECTORY"):
        return  # Windows opens no folder
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Let the error of a full disk, which names no file, name this one or its folder."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno in _FULL:
            error.filename = str(path)
        raise


def is_plain_file(path: Path) -> bool:
    """Return whether a path is a file that can be read and written: no pipe, device, folder or link to elsewhere."""
    return is_regular(path) and os.access(path, os.R_OK | os.W_OK)


def is_regular(path: Path) -> bool:
    """Return whether a path is a file itself, readable or not."""
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except OSError:
        return False


def make_room(folder: Path, files: Iterable[str], folders: Iterable[str] = ()) -> None:
    """Set aside what stands under these names in a folder and is no file that can be read and written, or no folder.

    For files that are opened where they stand; `atomic_write` needs no room.

    Raises:
        OSError: if the folder cannot be written.
    """
    for path in (folder / name for name in files):
        if os.path.lexists(path) and not is_plain_file(path):
            set_aside(path, "is no file that can be read and written")
    for path in (folder / name for name in folders):
        if os.path.lexists(path) and not path.is_dir():
            set_aside(path, "is no folder")


def set_aside(path: Path, reason: str) -> None:
    """Give what stands in the way of a file that can be written anew another name, and say so.

    Raises:
        OSError: if the folder cannot be written.
    """
    names = (path.with_name(f"{path.name}.unusable{number or ''}") for number in count())
    kept = next(name for name in names if not os.path.lexists(name))
    path.rename(kept)
    logger.warning("%s %s; it is kept as %s and a new one is begun", path, reason, kept.name)
