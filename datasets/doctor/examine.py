"""Look at every image of a data set and of benchmark sets once, in any number of processes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from datasets.benchmarks.benchmark import Benchmark, fault_of, load_benchmark
from datasets.doctor.alignment import MIN_SAMPLE, Discriminants, fit, half_of
from datasets.doctor.measure import Measured, measure_images, measure_portion
from datasets.faces.alignment import Alignment, check_alignment
from datasets.faces.image_folder import ImageFolderDataset
from datasets.faces.images import UnreadableImageError
from datasets.parallel import ordered_results
from datasets.payloads import PORTION, portions
from datasets.progress import tracked
from datasets.records.dataset import RecordDataset
from datasets.sample import Image

FaceSource = ImageFolderDataset | RecordDataset
Task = TypeVar("Task")

# Images from which the faces' usual place is learnt, spread evenly over the set: 50 MB with their moved copies.
_SAMPLE = 2000
# Images that are worth a process of their own.
_A_PROCESS = 4096


class Unreadable(NamedTuple):
    """An image of the set that cannot be read: its position, where it is, and why."""

    index: int  # type: ignore[assignment]  # hides tuple.index
    location: str
    reason: str


class Looked(NamedTuple):
    """What was seen of a data set.

    Attributes:
        rows: ROW [N], see `measure.ROW`.
        alignment: float32 [N], scores, 0 is usual; all 0 without a model.
        unreadable: the images that cannot be read.
        model: where its faces lie; None if it has too few.
        check: whether that is the template's place.
    """

    rows: NDArray[np.void]
    alignment: NDArray[np.float32]
    unreadable: list[Unreadable]
    model: Discriminants | None
    check: Alignment


class LookedSet(NamedTuple):
    """What was seen of a benchmark set; rows and alignment as in `Looked`.

    Attributes:
        fault: the file, and why nothing can be measured on it; None where something can.
    """

    benchmark: Benchmark
    rows: NDArray[np.void]
    alignment: NDArray[np.float32]
    fault: str | None = None


def look_at(dataset: FaceSource, jobs: int) -> Looked:
    """Measure every image of a data set; see `measure`. It needs 80 bytes of memory an image."""
    model = _learn(dataset)
    work = partial(measure_portion, model=model)
    rows, found = _collect(work, portions(dataset, range(len(dataset))), len(dataset), jobs, str(dataset.root))
    own = rows["alignment"][np.arange(len(rows)), half_of(np.arange(len(rows)))]
    return Looked(rows, own, found, model, check_alignment(dataset))


def look_at_set(path: Path, name: str, model: Discriminants | None, jobs: int) -> LookedSet:
    """Open a benchmark set and measure its images, their alignment by the model of another set.

    Raises:
        ValueError: if it is damaged.
    """
    benchmark = load_benchmark(path, name)
    num = len(benchmark.images)
    parts = (np.asarray(benchmark.images[start : start + PORTION]) for start in range(0, num, PORTION))
    # Processes take longer to start than a small set takes.
    processes = min(jobs, 1 + num // _A_PROCESS)
    rows, _ = _collect(partial(measure_images, model=model), parts, num, processes, name)
    fault = fault_of(benchmark)
    return LookedSet(benchmark, rows, rows["alignment"].mean(axis=1), None if fault is None else f"{path}: {fault}")


def _collect(
    work: Callable[[Task], Measured], tasks: Iterable[Task], num: int, jobs: int, name: str
) -> tuple[NDArray[np.void], list[Unreadable]]:
    unreadable: list[Unreadable] = []
    rows: NDArray[np.void] | None = None
    start = 0
    num_tasks = -(-num // PORTION)
    with ordered_results(work, tasks, jobs) as results:
        for part in tracked(results, f"Looking at {name}", num_tasks, transient=True):
            rows = np.empty(num, part.rows.dtype) if rows is None else rows
            rows[start : start + len(part.rows)] = part.rows
            unreadable += [Unreadable(start + place, location, reason) for place, location, reason in part.unreadable]
            start += len(part.rows)
    assert rows is not None and start == num
    return rows, unreadable


def _learn(dataset: FaceSource) -> Discriminants | None:
    """Return where the faces of a set lie, learnt from a sample of it; None if too few can be read."""
    indices = np.unique(np.linspace(0, len(dataset) - 1, _SAMPLE).astype(np.int64))
    shown = tracked(indices.tolist(), "Learning where the faces are", len(indices), transient=True)
    readable = list(_read_grays(dataset, shown))
    if len(readable) < MIN_SAMPLE:
        return None
    return fit([gray for _, gray in readable], np.array([index for index, _ in readable]))


def _read_grays(dataset: FaceSource, indices: Iterable[int]) -> Iterator[tuple[int, Image]]:
    for index in indices:
        try:
            image = dataset.read(index)
        except UnreadableImageError:
            continue
        yield index, np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), np.uint8)
