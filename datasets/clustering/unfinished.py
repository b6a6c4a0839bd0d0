"""What an interrupted search for neighbours has found: a file that the same search goes on from."""

from __future__ import annotations

import json
import time
import zipfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from datasets.clustering.best import BestNeighbours
from datasets.clustering.lists import Lists, Visits, lists_of
from system.files import atomic_write, is_regular

Int64Array = NDArray[np.int64]

SECONDS = 60.0  # between two times that it is written


class Unfinished:
    """A file beside the result, removed when that is there.

    Args:
        path: the file; its folder exists. One of other settings, or a damaged one, counts as none.
        weights: what the embeddings were computed by.
        search: what else tells one search from another: embeddings, numbers and method, as text.
    Raises:
        ValueError: if the file is about embeddings from other weights: what it has found means nothing for these.
    Attributes:
        lists: of the search, or None.
        keys: int64 [N, k] of `BestNeighbours`, or None.
        num_done: portions whose pairs are in the keys.
    """

    def __init__(self, path: Path, weights: str, search: str) -> None:
        self.lists: Lists | None = None
        self.keys: Int64Array | None = None
        self.num_done = 0
        self._path, self._weights, self._search = path, weights, search
        self._written = time.monotonic()
        self._read()

    def keep_lists(self, lists: Lists) -> None:
        """Write the lists, before the search begins."""
        self.lists = lists
        self._write(None, 0)

    def keep(self, best: BestNeighbours, num_done: int) -> None:
        """Write what was found, if the last time was a minute ago."""
        if time.monotonic() - self._written >= SECONDS:
            best.settle()
            self._write(best.keys, num_done)

    def remove(self) -> None:
        """Delete the file."""
        self._path.unlink(missing_ok=True)

    def _write(self, keys: Int64Array | None, num_done: int) -> None:
        content: dict[str, NDArray[np.generic]] = {
            "weights": np.array(self._weights),
            "search": np.array(self._search),
            "done": np.array(num_done),
        }
        if self.lists is not None:
            content["probes"] = self.lists.probes
            content["visits"] = np.array(json.dumps(self.lists.visits))
        if keys is not None:
            content["keys"] = keys
        with atomic_write(self._path, "wb") as stream:
            np.savez(stream, allow_pickle=False, **content)
        self._written = time.monotonic()

    def _read(self) -> None:
        if not is_regular(self._path):
            return
        try:
            with np.load(self._path, allow_pickle=False) as saved:
                weights, search = str(saved["weights"]), str(saved["search"])
                if weights == self._weights and search == self._search:
                    lists = None
                    if "probes" in saved:
                        lists = lists_of(saved["probes"], Visits(*json.loads(str(saved["visits"]))))
                    self.keys, self.num_done = saved.get("keys"), int(saved["done"])
                    self.lists = lists
        except (OSError, ValueError, KeyError, IndexError, EOFError, zipfile.BadZipFile):
            return  # it is written anew
        if weights != self._weights:
            raise ValueError(
                f"{self._path}: an unfinished search of embeddings from other weights, {weights[:12]} instead of"
                f" {self._weights[:12]}; give another folder, or --overwrite"
            )
