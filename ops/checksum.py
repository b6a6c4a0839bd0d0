"""The checksum at the end of a checkpoint file: written with it, and what it tells of a damaged one."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import BinaryIO

# torch.save writes a zip archive, whose last two bytes are the length of a comment, 0. The checksum becomes the
# comment: the file stays an archive that torch and unzip read, and renaming or copying cannot part the two.
_MARK = b"sha256:"
_COMMENT_LENGTH = len(_MARK) + 64
_NO_COMMENT = b"\0\0"
_BLOCK = 2**20


def append_checksum(stream: BinaryIO) -> None:
    """Let an archive that torch.save has just written, open for reading and writing, end with its checksum."""
    content = stream.seek(-len(_NO_COMMENT), os.SEEK_END)
    digest = _digest(stream, content)
    stream.seek(content)
    stream.write(_COMMENT_LENGTH.to_bytes(2, "little") + _MARK + digest)


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
