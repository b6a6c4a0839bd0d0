"""What can be embedded: photographs with people or without, records, arrays, and benchmark sets, read by place."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from datasets import ArrayDataset, Benchmark, ImageFolderDataset, RecordDataset
from datasets.arrays.format import is_cache
from datasets.benchmarks.pair_folder import is_pair_folder
from datasets.benchmarks.sets import are_sets, open_sets
from datasets.faces.paths import PathTable
from models import pictures
from models.pictures import AS_GIVEN, Aligner

Crop = NDArray[np.uint8]  # [112, 112, 3] RGB


class Unreadable(NamedTuple):
    """An image that gives no crop."""

    reason: str


class Source(Protocol):
    """N images in a fixed order."""

    labels: NDArray[np.int64] | None
    """int64 [N], contiguous from 0; None: nobody says who is who."""

    def __len__(self) -> int: ...

    def name(self, place: int) -> str:
        """Return what the image at a place is called in its source."""

    def read(self, start: int, stop: int) -> Sequence[Crop | Unreadable]:
        """Return the crops of the images from a place to another."""

    def state(self) -> str:
        """Return hex digits that change when the images change."""


class Photographs:
    """Files of images, cut out by an aligner; several threads read them.

    Args:
        paths: of the files.
        labels: of the people, None where they are not known.
        aligner: how a photograph becomes a crop.
        threads: that read; a detector works in one.
    """

    def __init__(
        self, paths: PathTable, labels: NDArray[np.int64] | None, aligner: Aligner = AS_GIVEN, threads: int = 1
    ) -> None:
        self.paths = paths
        self.labels = labels
        self._aligner = aligner
        self._pool = ThreadPool(threads) if threads > 1 and aligner == AS_GIVEN else None

    def __len__(self) -> int:
        return len(self.paths)

    def name(self, place: int) -> str:
        """Return the path below the folder."""
        return self.paths.relative(place)

    def read(self, start: int, stop: int) -> list[Crop | Unreadable]:
        """Return the crops of some photographs."""
        paths = [self.paths[place] for place in range(start, stop)]
        return list(map(self._crop, paths)) if self._pool is None else self._pool.map(self._crop, paths)

    def state(self) -> str:
        """Return hex digits that follow name, size and time of each file, and the labels."""
        digest = hashlib.sha256(b"unlabeled" if self.labels is None else self.labels.astype("<i8").tobytes())
        for place in range(len(self)):
            name = self.paths.relative(place)
            digest.update(os.fsencode(f"{name}\0{_file_state(f'{self.paths.root}/{name}')}\0"))
        return digest.hexdigest()

    def _crop(self, path: Path) -> Crop | Unreadable:
        try:
            return self._aligner.crop(path)
        except ValueError as error:
            return Unreadable(str(error))


class Faces:
    """The images of a record file or of a cache of decoded images."""

    def __init__(self, dataset: RecordDataset | ArrayDataset) -> None:
        self.dataset = dataset
        self.labels: NDArray[np.int64] | None = np.asarray(dataset.labels)

    def __len__(self) -> int:
        return len(self.dataset)

    def name(self, place: int) -> str:
        """Return the path of an image in the source of a cache, or its place in the record file."""
        return self.dataset.paths.relative(place)

    def read(self, start: int, stop: int) -> list[Crop | Unreadable]:
        """Return some images; those of a cache come by one read."""
        if isinstance(self.dataset, ArrayDataset):
            found = self.dataset.read_rows(start, stop)
            return [row if isinstance(row, np.ndarray) else Unreadable(str(row)) for row in found]
        return [self._read(place) for place in range(start, stop)]

    def state(self) -> str:
        """Return hex digits that follow the files."""
        return hashlib.sha256(self.dataset.decoding.encode()).hexdigest()

    def _read(self, place: int) -> Crop | Unreadable:
        try:
            return self.dataset.read(place)
        except ValueError as error:
            return Unreadable(str(error))


class SetImages:
    """The 2N images of the N pairs of a benchmark set, with the people where the set knows them."""

    def __init__(self, benchmark: Benchmark) -> None:
        self._benchmark = benchmark
        people = benchmark.identities
        self.labels: NDArray[np.int64] | None = (
            None if people is None else np.unique(people, return_inverse=True)[1].astype(np.int64)
        )

    def __len__(self) -> int:
        return len(self._benchmark.images)

    def name(self, place: int) -> str:
        """Return the set and the place of an image in it."""
        return f"{self._benchmark.name}/{place}"

    def read(self, start: int, stop: int) -> list[Crop | Unreadable]:
        """Return some images."""
        return list(np.array(self._benchmark.images[start:stop]))

    def state(self) -> str:
        """Return hex digits that follow images and answers."""
        return self._benchmark.checksum().removeprefix("sha256:")


def find_photographs(path: Path, follow_links: bool = False) -> tuple[PathTable, NDArray[np.int64] | None] | None:
    """Return the files and labels of a folder of photographs; None: the path is of another kind.

    A folder without folders holds photographs of people whom nobody names.

    Raises:
        ValueError: if it is missing or holds no image.
    """
    if not path.exists():
        raise ValueError(f"{path} does not exist")
    is_other = path.is_file() or is_cache(path) or any(path.glob("*.rec")) or _is_set(path)
    if is_other:
        return None
    if any(child.is_dir() for child in path.iterdir()):
        dataset = ImageFolderDataset(path, follow_links=follow_links)
        return dataset.paths, dataset.labels
    files = pictures.find_images(path)
    return PathTable(path, (file.relative_to(path).as_posix() for file in files)), None


def open_other(path: Path) -> Source:
    """Return the images of a record file, a cache of decoded images, or a benchmark set.

    Raises:
        ValueError: if it is none of these, or damaged.
    """
    if is_cache(path):
        return Faces(ArrayDataset(path))
    if path.suffix == ".rec" or (path.is_dir() and any(path.glob("*.rec"))):
        return Faces(RecordDataset(path))
    if not _is_set(path):
        raise ValueError(f"{path}: a folder of photographs, records, arrays or a benchmark set is expected")
    sets = open_sets(path)
    if len(sets) != 1:
        names = ", ".join(benchmark.name for benchmark in sets)
        raise ValueError(f"{path}: holds several benchmark sets ({names}); give one of them")
    return SetImages(sets[0])


def _is_set(path: Path) -> bool:
    """Return whether a path is a benchmark set or a folder of such; a folder of people with a list is people."""
    return not is_pair_folder(path) and are_sets(path)


def _file_state(file: str) -> str:
    try:
        status = os.stat(file)  # noqa: PTH116  # asked for millions of files
    except OSError:
        return "missing"
    return f"{status.st_size} {status.st_mtime_ns}"
