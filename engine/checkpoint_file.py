"""Writing checkpoints so that neither a crash nor a full disk leaves half of one, and telling a damaged one."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from lightning_fabric.plugins import TorchCheckpointIO

from engine.files import WriteFailures, outlived
from ops import append_checksum, damage, utf8_path
from system.files import atomic_write, replacing

__all__ = ["AtomicCheckpointIO", "damage", "keep_copy"]


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
            with atomic_write(path, "w+b") as stream:
                _save(checkpoint, stream)
                append_checksum(stream)

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
    with replacing(target) as temporary:
        try:
            os.link(source, temporary)
        except OSError:
            shutil.copyfile(source, temporary)
            with temporary.open("rb") as stream:
                os.fsync(stream.fileno())


def _save(checkpoint: Mapping[str, Any], stream: BinaryIO) -> None:
    try:
        torch.save(checkpoint, stream)
    except RuntimeError as error:
        # torch closes its archive on the way out, and complains of the place where it is.
        if isinstance(error.__context__, OSError):
            raise error.__context__ from error
        raise
