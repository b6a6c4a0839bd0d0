"""What is measured of a run is kept beside its checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from system.files import atomic_write

Arrays = dict[str, NDArray[np.float32]]


def kept_beside(checkpoint: Path, name: str, measure: Callable[[], Mapping[str, NDArray[np.float32]]]) -> Arrays:
    """Return the arrays of a file beside a checkpoint, measured anew unless it is as new as that.

    Args:
        checkpoint: of a run.
        name: of the file, which ends in .npz.
        measure: gives the arrays by name.
    """
    path = checkpoint.with_name(name)
    if not path.exists() or checkpoint.stat().st_mtime_ns > path.stat().st_mtime_ns:
        found = measure()
        with atomic_write(path, "wb") as stream:
            np.savez(stream, **found)  # type: ignore[arg-type]  # the stubs take the names for options of savez
    with np.load(path) as saved:
        return dict(saved)
