"""Benchmark sets: pairs of faces with the answer, memory-mapped from our own layout."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from mmap import mmap
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from datasets.sample import Image
from transforms.landmarks import IMAGE_SIZE

BENCHMARKS = ("lfw", "cfp_fp", "agedb_30", "calfw", "cplfw")
_IMAGE_SHAPE = (IMAGE_SIZE, IMAGE_SIZE, 3)


@dataclass(frozen=True, eq=False)
class Benchmark:
    """Pairs of images: pair i is images 2i and 2i + 1.

    Attributes:
        images: uint8 [2N, 112, 112, 3] RGB, usually a memory map.
        issame: bool [N], True where both images show one identity.
        name: of the set, a plain file name.
        folds: int64 [N], fold of each pair where the protocol defines them.
        identities: int64 [2N], identity of each image where it is known.
    Raises:
        ValueError, TypeError: if a shape, a dtype or the name is another.
    """

    images: Image
    issame: NDArray[np.bool_]
    name: str
    folds: NDArray[np.int64] | None = None
    identities: NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        _check_name(self.name)
        if self.images.dtype != np.uint8 or self.images.ndim != 4 or self.images.shape[1:] != _IMAGE_SHAPE:
            raise ValueError(
                f"benchmark {self.name}: images must be uint8 [2N, 112, 112, 3] RGB, got {_describe(self.images)}"
            )
        num_pairs = len(self.images) // 2
        if num_pairs == 0 or len(self.images) % 2:
            raise ValueError(f"benchmark {self.name}: two images a pair are needed, got {len(self.images)} images")
        if self.issame.dtype != np.bool_ or self.issame.shape != (num_pairs,):
            raise ValueError(
                f"benchmark {self.name}: issame must be bool [{num_pairs}] for {len(self.images)} images, "
                f"got {_describe(self.issame)}"
            )
        for field, array, length in (("folds", self.folds, num_pairs), ("identities", self.identities, 2 * num_pairs)):
            if array is not None and (array.dtype.kind not in "iu" or array.shape != (length,) or array.min() < 0):
                raise ValueError(
                    f"benchmark {self.name}: {field} must be integers >= 0 [{length}], got {_describe(array)} "
                    f"from {array.min(initial=0)}"
                )

    def __len__(self) -> int:
        return len(self.issame)

    def checksum(self) -> str:
        """Return the SHA-256 of images and answers, which says exactly which set a result was measured on."""
        digest = hashlib.sha256(self.issame.tobytes())
        for image in self.images:
            digest.update(image)
        return f"sha256:{digest.hexdigest()}"

    def __getstate__(self) -> dict[str, object]:
        # A memory map pickles as its whole content: workers that are spawned open the file again instead.
        state = dict(self.__dict__)
        if isinstance(self.images, np.memmap) and isinstance(self.images.base, mmap):
            state["images"] = Path(str(self.images.filename))
        return state

    def __setstate__(self, state: dict[str, object]) -> None:
        images = state["images"]
        self.__dict__.update(state, images=_map(images) if isinstance(images, Path) else images)


def load_benchmark(path_or_dir: str | os.PathLike[str], name: str) -> Benchmark:
    """Open a benchmark set; its images are mapped, not read.

    Args:
        path_or_dir: the set's own folder with images.npy and issame.npy (identities.npy and folds.npy are optional), or
            the folder that holds it under its name.
        name: of the set.
    Raises:
        ValueError: if there is no such set, or a file is damaged or does not fit the others; names the file.
    """
    _check_name(name)
    given = Path(path_or_dir)
    for matches, read in _LAYOUTS:
        for candidate in (given, given / name):
            if matches(candidate):
                return read(candidate, name)
    raise ValueError(
        f"load_benchmark: no benchmark {name!r} in {given}; expected {name}/images.npy (uint8 [2N, 112, 112, 3] RGB) "
        f"and {name}/issame.npy (bool [N])"
    )


def find_benchmarks(root: str | os.PathLike[str]) -> tuple[dict[str, Benchmark], list[str]]:
    """Open those of the five usual sets that lie in a folder.

    Returns:
        (the sets present by name, the names of those missing), both in the order of BENCHMARKS.
    Raises:
        ValueError: if a set is present but damaged.
    """
    folder = Path(root)
    present = [name for name in BENCHMARKS if any(matches(folder / name) for matches, _ in _LAYOUTS)]
    return (
        {name: load_benchmark(folder, name) for name in present},
        [name for name in BENCHMARKS if name not in present],
    )


def save_benchmark(benchmark: Benchmark, root: str | os.PathLike[str]) -> Path:
    """Write a set to `<root>/<name>/`, replacing one that is there, and return that folder.

    The files are complete before the folder gets its name: a run that is killed, or a full disk, leaves no partial set.

    Raises:
        OSError: if the folder cannot be written.
    """
    root = Path(root)
    root.mkdir(parents=True, exist_ok=True)
    # Hidden, so that a reader who lists the root does not take it for a set.
    temporary = Path(tempfile.mkdtemp(prefix=f".{benchmark.name}-", dir=root))
    try:
        complete = temporary / benchmark.name
        complete.mkdir()
        for field in ("images", "issame", "folds", "identities"):
            array = getattr(benchmark, field)
            if array is not None:
                _write(complete / f"{field}.npy", array)
        _sync(complete)
        target = root / benchmark.name
        if target.exists():
            target.rename(temporary / "replaced")
        complete.rename(target)
        _sync(root)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return target


def _is_own_layout(folder: Path) -> bool:
    return (folder / "images.npy").is_file() and (folder / "issame.npy").is_file()


def _read_own_layout(folder: Path, name: str) -> Benchmark:
    """Map the images and read the small arrays of a folder that `save_benchmark` or the user wrote."""
    small = {field: _read_small(folder / f"{field}.npy") for field in ("issame", "folds", "identities")}
    issame = small["issame"]
    assert issame is not None  # the layout was matched by this file
    try:
        return Benchmark(_map(folder / "images.npy"), issame, name, small["folds"], small["identities"])
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from error


def _read_small(file: Path) -> NDArray | None:
    # Mapped first: the mapping checks the file against its header, before a lying header allocates anything.
    return np.array(_map(file)) if file.exists() else None


def _map(file: Path) -> NDArray:
    try:
        return np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{file}: not an array file that can be read ({reason}); write it with numpy.save") from error


def _write(file: Path, array: NDArray) -> None:
    with file.open("wb") as stream:
        np.save(stream, array, allow_pickle=False)
        stream.flush()
        os.fsync(stream.fileno())


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _check_name(name: str) -> None:
    # Names become folders: nothing hidden, nothing that climbs.
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", name):
        raise ValueError(
            f"benchmark name {name!r}: use letters, digits, '_', '-', '.', and begin with one of the first three"
        )


def _describe(array: NDArray) -> str:
    return f"{array.dtype} {list(array.shape)}"


# Tried in this order; another layout is one line here and its reader.
_LAYOUTS: tuple[tuple[Callable[[Path], bool], Callable[[Path, str], Benchmark]], ...] = (
    (_is_own_layout, _read_own_layout),
)
