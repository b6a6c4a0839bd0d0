"""Paths for libraries that open files by themselves, and know names in UTF-8 only."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def utf8_path(path: str | Path) -> Iterator[str]:
    """Give a path by which any library opens the file, while the block runs; usually its own.

    A name that is not UTF-8, which torch and safetensors refuse, is opened here and named by the descriptor.

    Raises:
        OSError: if a file with such a name cannot be opened.
    """
    text = os.fspath(path)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        with Path(text).open("rb") as stream:
            yield f"/dev/fd/{stream.fileno()}"
    else:
        yield text
