"""What an embedding in the middle of a training has found so far, in files that the same embedding goes on from."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from models.embedding.rows import RowFiles, Rows
from ops import gather_objects, own_rank
from system.files import is_regular

logger = logging.getLogger(__name__)
PREFIX = "unfinished_"  # of the folder's name, before the digest of what the rows follow from


class KeptRows:
    """Embeddings by batch, each rank's at its place in files that all share, as `RowFiles` has them.

    A batch counts when its checksum is right; what was killed in the middle is embedded again. A disk that is full, or
    a rank that does not see the folder of rank 0, costs only what would be kept.

    Args:
        folder: where to keep them, None on the ranks that write nothing; they take that of rank 0.
    """

    def __init__(self, folder: Path | None) -> None:
        self._root = None if folder is None else folder.absolute()
        self._files: RowFiles | None = None

    def open(self, digest: str, count: int, dim: int, dtype: torch.dtype, batch_size: int) -> None:
        """Open what is kept of these rows, or begin; rows of any other digest are removed. All ranks call it together.

        Args:
            digest: of all that the rows follow from, weights above all.
            count, dim: number of rows, and of their columns.
            dtype: float16 or float32.
            batch_size: rows of every batch but the last.
        """
        self._files, root = None, gather_objects(self._root)[0]
        if root is None:
            return
        files = RowFiles(root / f"{PREFIX}{digest}", count, dim, str(dtype).removeprefix("torch."), batch_size)
        if own_rank() == 0:
            with self._outlived():
                _prepare(files)
        gather_objects(None)  # from here on the files are there
        self._files = files if _is_ready(files) else None

    def read(self, batch: int) -> Tensor | None:
        """Return the rows of a batch; None: they are not there."""
        if self._files is None or not self._files.is_done(batch):
            return None
        return torch.from_numpy(np.array(self._files.read(batch).embeddings))

    def write(self, batch: int, rows: Tensor) -> None:
        """Keep the rows of a batch."""
        if self._files is not None:
            blank = np.zeros(len(rows), np.float32)
            with self._outlived():
                self._files.write(batch, Rows(rows.cpu().numpy(), blank, blank))

    def remove(self) -> None:
        """Delete the files: a checkpoint has what was made of them."""
        self._files = None
        for folder in [] if self._root is None else self._root.glob(f"{PREFIX}*"):
            shutil.rmtree(folder, ignore_errors=True)

    @contextmanager
    def _outlived(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._files = None
            logger.warning("embeddings are not kept for a run that goes on (%s)", error.strerror)


def _prepare(files: RowFiles) -> None:
    files.folder.parent.mkdir(exist_ok=True)
    for other in files.folder.parent.glob(f"{PREFIX}*"):
        if other != files.folder:
            shutil.rmtree(other, ignore_errors=True)
    if not _is_ready(files):
        files.folder.mkdir(exist_ok=True)
        for name in files.sizes():
            (files.folder / name).unlink(missing_ok=True)
            (files.folder / name).touch()
        files.reserve()


def _is_ready(files: RowFiles) -> bool:
    paths = {files.folder / name: size for name, size in files.sizes().items()}
    return all(is_regular(path) and path.stat().st_size == size for path, size in paths.items())
