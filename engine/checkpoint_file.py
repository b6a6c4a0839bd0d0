"""Writing checkpoints so that neither a crash nor a full disk leaves half of one, and telling a damaged one."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from lightning_fabric.plugins import TorchCheckpointIO

from engine.files import WriteFailures, outlived
from ops import utf8_path

# torch.save writes a zip archive, whose last two bytes are the length of a comment, 0. The checksum becomes the
# comment: the file stays an archive that torch and unzip read, and renaming or copying cannot part the two.
_MARK = b"sha256:"
_COMMENT_LENGTH = len(_MARK) + 64
_NO_COMMENT = b"\0\0"
_BLOCK = 2**20


class AtomicCheckpointIO(TorchCheckpointIO):
    """Save to a temporary name in the same folder, with a checksum, sync, then rename over the old file.

    Args:
        failures: told when a checkpoint could not be written, and the old file stays; None: that is an error.
    """

    def __init__(self, failures: WriteFailures | None = None) -> None:
        super().__init__()
        self._failures = failures

    def save_checkpoint(self, checkpoint: Mapping[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write `checkpoint` to `path`; the file that was there stays whole until the new one is.

        Raises:
            OSError: if the folder cannot be written or the disk is full, and there are no `failures` to tell.
        """
        path = Path(path)
        with outlived(self._failures, path.name):
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = _temporary(path)
            try:
                with temporary.open("w+b") as stream:
                    _save(checkpoint, stream)
                    _append_checksum(stream)
                    _sync(stream)
                temporary.replace(path)
                _sync_folder(path.parent)
            finally:
                temporary.unlink(missing_ok=True)

    def load_checkpoint(self, path: str | Path, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Return a checkpoint as plain data whose tensors are read when they are needed.

        The ranks of a machine share the file's memory: each takes its part of a head that is split over them.
        """
        with utf8_path(path) as name:
            return torch.load(name, map_location="cpu", weights_only=True, mmap=True)


def keep_copy(source: Path, target: Path) -> None:
    """Give a checkpoint, which must be whole, a second name that survives the next one; an older file gives way.

    It costs nothing where the file system knows hard links: the next checkpoint is another file.

    Raises:
        OSError: if the folder cannot be written.
    """
    temporary = _temporary(target)
    try:
        try:
            os.link(source, temporary)
        except OSError:
            shutil.copyfile(source, temporary)
            with temporary.open("rb") as stream:
                os.fsync(stream.fileno())
        temporary.replace(target)
        _sync_folder(target.parent)
    finally:
        temporary.unlink(missing_ok=True)


def remove_unfinished(folder: Path) -> None:
    """Delete what killed runs left of checkpoints that they were writing."""
    for path in folder.glob(".*.ckpt.*.tmp"):
        path.unlink(missing_ok=True)


def damage(path: Path) -> str | None:
    """Return what is wrong with a checkpoint file according to its end; None if nothing is.

    A file that torch.save wrote alone has no checksum: of it, this knows only whether its end is there.

    Raises:
        OSError: if it cannot be read.
    """
    with path.open("rb") as stream:
        content = stream.seek(0, os.SEEK_END) - len(_NO_COMMENT) - _COMMENT_LENGTH
        stream.seek(max(0, content))
        end = stream.read()
        start = _COMMENT_LENGTH.to_bytes(2, "little") + _MARK
        if end.startswith(start):
            return None if _digest(stream, content) == end.removeprefix(start) else "its checksum differs"
    return None if end.endswith(_NO_COMMENT) else "it is cut off"


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def _save(checkpoint: Mapping[str, Any], stream: BinaryIO) -> None:
    try:
        torch.save(checkpoint, stream)
    except RuntimeError as error:
        # torch closes its archive on the way out, and complains of the place where it is.
        if isinstance(error.__context__, OSError):
            raise error.__context__ from error
        raise


def _append_checksum(stream: BinaryIO) -> None:
    content = stream.seek(-len(_NO_COMMENT), os.SEEK_END)
    digest = _digest(stream, content)
    stream.seek(content)
    stream.write(_COMMENT_LENGTH.to_bytes(2, "little") + _MARK + digest)


def _digest(stream: BinaryIO, num_bytes: int) -> bytes:
    """Return the SHA-256 of an archive's first bytes and an empty comment's length, in hexadecimal digits."""
    stream.seek(0)
    digest = hashlib.sha256()
    while num_bytes > 0:
        block = stream.read(min(_BLOCK, num_bytes))
        if not block:
            break
        digest.update(block)
        num_bytes -= len(block)
    digest.update(_NO_COMMENT)
    return digest.hexdigest().encode()


def _sync(stream: BinaryIO) -> None:
    stream.flush()
    os.fsync(stream.fileno())


def _sync_folder(folder: Path) -> None:
    """Let the new name of a file survive a power failure."""
    if not hasattr(os, "O_DIRECTORY"):
        return  # Windows opens no folder
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
