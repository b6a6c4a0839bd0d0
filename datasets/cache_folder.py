"""The user's cache folder, and how a folder gets into it: complete or not at all."""

from __future__ import annotations

import importlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def cache_folder() -> Path:
    """Return the user's cache folder: $MASKWISE_CACHE, else maskwise in $XDG_CACHE_HOME, else in ~/.cache."""
    own = os.environ.get("MASKWISE_CACHE")
    if own:
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "maskwise"


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Wait until no other process of this machine is in the block for this folder, so that one of many ranks fills it.

    Where the folder's parent cannot be written, or there are no such locks (Windows), all of them enter at once. A
    process that dies lets the next one in.
    """
    stream = None
    with suppress(ImportError, OSError):
        fcntl = importlib.import_module("fcntl")
        folder.parent.mkdir(parents=True, exist_ok=True)
        stream = (folder.parent / f".{folder.name}.lock").open("w", encoding="utf-8")
        fcntl.flock(stream, fcntl.LOCK_EX)
    try:
        yield
    finally:
        if stream is not None:
            stream.close()


def publish(folder: Path, fill: Callable[[Path], object]) -> None:
    """Make a folder appear with what `fill` writes into it; where another rank was faster, its folder stays.

    Raises:
        OSError: if it cannot be written; then nothing of it is left.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Hidden, so that a reader who lists the parent does not take it for a finished folder.
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        fill(temporary)
        temporary.rename(folder)
    except OSError:
        if not folder.exists():
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
