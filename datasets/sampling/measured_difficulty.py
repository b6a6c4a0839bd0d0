"""The difficulty of every image of a data set, measured once and kept in the user's cache folder."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from datasets.cache_folder import alone, cache_folder, publish
from datasets.content_key import dataset_key
from datasets.faces.images import UnreadableImageError
from datasets.progress import tracked
from datasets.sample import FaceDataset, Image
from datasets.sampling.difficulty import contrast_difficulty, estimated_side, resolution_difficulty

logger = logging.getLogger(__name__)
DIFFICULTIES: dict[str, Callable[[Image], float]] = {
    "resolution": lambda image: float(resolution_difficulty(estimated_side(image))),
    "contrast": contrast_difficulty,
}
_VERSION = 1  # raised whenever the same images would get other numbers
_FILE = "difficulty.npy"


def measured_difficulty(dataset: FaceDataset, kind: str, num_threads: int = 1, cache: Path | None = None) -> NDArray:
    """Return how hard each image is, float64 [N]; one that cannot be read is as hard as the hardest.

    Every image is decoded once, by one of the ranks of a machine; the numbers are kept under a key of the images'
    paths, sizes and times. Where the cache cannot be written, a warning says so.

    Args:
        dataset: where images are read.
        kind: of `DIFFICULTIES`.
        num_threads: that decode and measure.
        cache: folder; None is the user's.
    Raises:
        ValueError: if there is no such kind, or no image can be read.
    """
    if kind not in DIFFICULTIES:
        raise ValueError(f"measured_difficulty: unknown kind {kind!r}; choose one of {', '.join(DIFFICULTIES)}")
    folder = (cache or cache_folder()) / "difficulty" / dataset_key(dataset, f"{_VERSION} {kind}")
    with alone(folder):
        try:
            kept: NDArray[np.float64] = np.load(folder / _FILE, allow_pickle=False)
            if kept.shape == (len(dataset),) and kept.dtype == np.float64:
                return kept
        except (OSError, ValueError):
            """It is not there, or damaged: measured anew."""
        measured = _measure(dataset, kind, num_threads)
        try:
            publish(folder, lambda temporary: np.save(temporary / _FILE, measured))
        except OSError as error:
            logger.warning("%s: cannot keep the difficulty of the images (%s)", folder, error.strerror)
    return measured


def _measure(dataset: FaceDataset, kind: str, num_threads: int) -> NDArray[np.float64]:
    with ThreadPoolExecutor(max(1, num_threads)) as pool:
        found = pool.map(partial(_one, dataset, DIFFICULTIES[kind]), range(len(dataset)))
        values = np.fromiter(tracked(found, f"measuring {kind}", len(dataset)), np.float64, len(dataset))
    unreadable = np.isnan(values)
    if unreadable.all():
        raise ValueError(f"none of the {len(dataset)} images can be read: there is no difficulty to measure")
    return np.where(unreadable, values[~unreadable].max(), values)


def _one(dataset: FaceDataset, measure: Callable[[Image], float], index: int) -> float:
    try:
        return measure(dataset.read(index))
    except UnreadableImageError:
        return np.nan
