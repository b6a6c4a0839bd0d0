"""Many paths in little memory."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable, Sequence
from io import BufferedReader
from pathlib import Path
from typing import overload

import numpy as np
from numpy.typing import NDArray


def open_regular(path: str | os.PathLike[str]) -> BufferedReader:
    """Open a file of a data set to read it, if it is a regular one: a pipe or a device may never begin or end.

    Raises:
        OSError: if it is something else, or cannot be opened.
    """
    mode = Path(path).stat().st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):  # to open a folder says enough
        raise OSError(errno.EINVAL, "it is a pipe or a device, no regular file", os.fspath(path))
    return Path(path).open("rb")


class PathTable(Sequence[Path]):
    """Paths below one root, kept as one byte string.

    A list of millions of strings costs hundreds of megabytes, and every forked worker copies it bit by bit as it
    touches reference counts. This costs the characters and 16 bytes a path, and workers share it.

    Args:
        root: folder that all paths start with.
        names: each path relative to the root.
    """

    def __init__(self, root: Path, names: Iterable[str]) -> None:
        encoded = [os.fsencode(name) for name in names]
        self.root = root
        self._characters = b"".join(encoded)
        lengths = np.fromiter((len(name) for name in encoded), np.int64, len(encoded))
        self._ends = np.cumsum(lengths)
        self._starts = self._ends - lengths

    def __len__(self) -> int:
        return len(self._ends)

    @overload
    def __getitem__(self, index: int) -> Path: ...

    @overload
    def __getitem__(self, index: slice) -> PathTable: ...

    def __getitem__(self, index: int | slice) -> Path | PathTable:
        if isinstance(index, slice):
            return self.take(np.arange(len(self))[index])
        return self.root / self.relative(index)

    def relative(self, index: int) -> str:
        """Return one path relative to the root, with forward slashes."""
        return os.fsdecode(self._characters[self._starts[index] : self._ends[index]])

    def take(self, indices: NDArray[np.int64]) -> PathTable:
        """Return the chosen paths in the order of `indices`; the characters are shared."""
        chosen = PathTable(self.root, ())
        chosen._characters = self._characters
        chosen._starts = self._starts[indices]
        chosen._ends = self._ends[indices]
        return chosen
