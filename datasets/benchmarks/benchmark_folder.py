"""A benchmark set in our own layout: a folder of .npy files whose images are mapped, not read."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from mmap import mmap
from pathlib import Path
from tokenize import TokenError
from typing import BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from datasets.checksums import CHECKSUMS, verify, write_checksums
from datasets.faces.paths import open_regular
from datasets.sample import Image
from system.files import atomic_write, sync_folder, write_text
from transforms.landmarks import IMAGE_SIZE

IMAGE_SHAPE = (IMAGE_SIZE, IMAGE_SIZE, 3)
_SOURCE = "source.txt"
# The header of an .npy file is a Python literal: numpy hands on whatever the parser says of a damaged one.
_UNREADABLE = (OSError, ValueError, TypeError, OverflowError, SyntaxError, TokenError, RecursionError, MemoryError)
_CHECKSUM = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True, eq=False)
class Benchmark:
    """Pairs of images: pair i is images 2i and 2i + 1.

    Attributes:
        images: uint8 [2N, 112, 112, 3] RGB, usually a memory map.
        issame: bool [N], True where both images show one identity.
        name: of the set, a plain file name.
        folds: int64 [N], fold of each pair where the protocol defines them.
        identities: int64 [2N], identity of each image where it is known.
        source: "sha256:" and the digest of the file that the set was converted from, None where it was not converted;
            of several files, the digest of what sha256sum prints for them, sorted by name.
    Raises:
        ValueError, TypeError: if a shape, a dtype, the name or the source is another.
    """

    images: Image
    issame: NDArray[np.bool_]
    name: str
    folds: NDArray[np.int64] | None = None
    identities: NDArray[np.int64] | None = None
    source: str | None = None

    def __post_init__(self) -> None:
        check_name(self.name)
        if self.images.dtype != np.uint8 or self.images.ndim != 4 or self.images.shape[1:] != IMAGE_SHAPE:
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
        if self.source is not None and not _CHECKSUM.fullmatch(self.source):
            raise ValueError(f"benchmark {self.name}: source must be 'sha256:' and 64 digits, got {self.source[:80]!r}")

    def __len__(self) -> int:
        return len(self.issame)

    def checksum(self) -> str:
        """Return the SHA-256 of images and answers, which says exactly which set a result was measured on."""
        digest = hashlib.sha256(self.issame.tobytes())
        for image in self.images:
            digest.update(image.tobytes())
        return f"sha256:{digest.hexdigest()}"

    def __getstate__(self) -> dict[str, object]:
        # A memory map pickles as its whole content: workers that are spawned open the file again instead.
        state = dict(self.__dict__)
        if isinstance(self.images, np.memmap) and isinstance(self.images.base, mmap):
            state["images"] = Path(str(self.images.filename))
        return state

    def __setstate__(self, state: dict[str, object]) -> None:
        images = state["images"]
        self.__dict__.update(state, images=map_array(images) if isinstance(images, Path) else images)


class PairStream(NamedTuple):
    """A benchmark whose images come one after the other, so that a set larger than memory can be converted.

    Attributes:
        images: uint8 [112, 112, 3] RGB each.
        num_images: how many will come.
        issame, folds, identities: as in `Benchmark`.
    """

    images: Iterable[Image]
    num_images: int
    issame: NDArray[np.bool_]
    folds: NDArray[np.int64] | None = None
    identities: NDArray[np.int64] | None = None


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
        stream = PairStream(
            benchmark.images, len(benchmark.images), benchmark.issame, benchmark.folds, benchmark.identities
        )
        write_folder(stream, complete, benchmark.source)
        target = root / benchmark.name
        if target.exists():
            target.rename(temporary / "replaced")
        complete.rename(target)
        sync_folder(root)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return target


def write_folder(stream: PairStream, folder: Path, source: str | None) -> None:
    """Write a set into a new folder.

    Raises:
        OSError: if it cannot be written.
    """
    folder.mkdir()
    with atomic_write(folder / "images.npy", "wb") as file:
        _write_images(file, stream)
    for field in ("issame", "folds", "identities"):
        array = getattr(stream, field)
        if array is not None:
            with atomic_write(folder / f"{field}.npy", "wb") as file:
                np.save(file, array, allow_pickle=False)
    if source is not None:
        write_text(folder / _SOURCE, f"{source}\n")
    write_checksums(folder)


def is_own_layout(folder: Path) -> bool:
    """Return whether a folder holds a set as `write_folder` or the user wrote it."""
    return (folder / "images.npy").is_file() and (folder / "issame.npy").is_file()


def read_folder(folder: Path, name: str, verified: bool = False) -> Benchmark:
    """Map the images and read the small arrays of a set; where it carries checksums, as ours do, they are compared.

    Args:
        folder, name: of the set.
        verified: they need not be compared.
    Raises:
        ValueError: if a file is damaged or does not fit the others; names the file or the folder.
    """
    if not verified and (folder / CHECKSUMS).exists():
        try:
            verify(folder)
        except ValueError as error:
            remedy = f"write the set again, or remove {CHECKSUMS} if it was changed on purpose"
            raise ValueError(f"{error}; {remedy}") from error
    small = {field: _read_small(folder / f"{field}.npy") for field in ("issame", "folds", "identities")}
    issame = small["issame"]
    if issame is None:
        raise ValueError(f"{folder}: it has no issame.npy (bool [N])")
    images = map_array(folder / "images.npy")
    try:
        return Benchmark(images, issame, name, small["folds"], small["identities"], _read_source(folder / _SOURCE))
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from error


def map_array(file: Path) -> NDArray:
    """Map an .npy file, read-only.

    Raises:
        ValueError: if it is not one, or shorter than its header says; names the file.
    """
    try:
        open_regular(file).close()
        return np.lib.format.open_memmap(file, mode="r")
    except _UNREADABLE as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{file}: not an array file that can be read ({reason}); write it with numpy.save") from error


def check_name(name: str) -> None:
    """Refuse a name that could not be a folder's, or part of a report's file names: hidden, climbing and long ones.

    Raises:
        ValueError: if it is one.
    """
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}", name):
        raise ValueError(
            f"benchmark name {name!r}: use letters, digits, '_', '-', '.', 100 characters at most, and begin with one "
            "of the first three"
        )


def _read_small(file: Path) -> NDArray | None:
    # Mapped first: the mapping checks the file against its header, before a lying header allocates anything.
    return np.array(map_array(file)) if file.exists() else None


def _read_source(file: Path) -> str | None:
    if not file.exists():
        return None
    with open_regular(file) as stream:
        return stream.read(200).decode("latin-1").strip()


def _write_images(file: BinaryIO, stream: PairStream) -> None:
    # Written, not mapped: a full disk is an error here and the end of the process there.
    header = {"descr": "|u1", "fortran_order": False, "shape": (stream.num_images, *IMAGE_SHAPE)}
    np.lib.format.write_array_header_1_0(file, header)
    for image in stream.images:
        file.write(image.tobytes())


def _describe(array: NDArray) -> str:
    return f"{array.dtype} {list(array.shape)}"
