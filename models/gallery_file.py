"""A gallery in one file: an uncompressed .npz whose arrays are read without pickle, whose maps stay on the disk.

The file may come from anywhere. Members, types, shapes and numbers are checked before anything is used, sizes before
memory is taken. All but the maps is read whole, and the archive's checksums tell damage; maps are mapped into memory
and read where they are matched.
"""

from __future__ import annotations

import hashlib
import io
import json
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.calibration_rules import ORIGIN
from models.templates import MAP_DTYPES, Templates, View
from ops import each, first_fault, named
from system.files import atomic_write

SCHEMA = 1
DIGEST_BYTES = 16
_MAX_HEADER = 2**28
_HEADER_START = 64  # bytes of an array's header are looked for in so many times 1024
_UNIT = 1e-2  # how far a length may be from 1
_LOCAL_HEADER = struct.Struct("<26xHH")  # of a zip member: lengths of name and extra field


class Content(NamedTuple):
    """What a file holds.

    Attributes:
        header: origin, names of people, names of photographs, best scores of strangers.
        templates: of the people.
        digests: uint8 [M, 16], of each photograph's crop.
        owners: int64 [M], whose it is.
    """

    header: dict[str, Any]
    templates: Templates
    digests: NDArray[np.uint8]
    owners: NDArray[np.int64]


def digest(crop: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return what tells a crop from others: 16 bytes of its SHA-256."""
    data = hashlib.sha256(np.ascontiguousarray(crop).data).digest()
    return np.frombuffer(data[:DIGEST_BYTES], np.uint8)


def first_seen(digests: NDArray[np.uint8], known: NDArray[np.uint8]) -> list[int]:
    """Return the places of the digests that are not known, each once."""
    places = {row.tobytes(): place for place, row in reversed([*enumerate(digests)])}
    return sorted(places[row] for row in places.keys() - {row.tobytes() for row in known})


def write(path: Path, content: Content) -> None:
    """Write a gallery; an older file stays whole until the new one is.

    Raises:
        OSError: if it cannot be written.
    """
    arrays: dict[str, NDArray] = {
        "header": np.frombuffer(json.dumps({"schema": SCHEMA, **content.header}).encode(), np.uint8),
        "embedding": content.templates.embedding,
        "length": content.templates.length,
        "digests": content.digests,
        "owners": content.owners,
    }
    for number, view in enumerate(content.templates.views):
        arrays |= {f"maps_{number}": view.maps, f"lengths_{number}": view.lengths}
        if view.visibility is not None:
            arrays[f"visibility_{number}"] = view.visibility
    with atomic_write(path, "wb") as stream:
        np.savez(stream, **arrays)  # type: ignore[arg-type]


def read(path: Path, embedding_size: int, map_shape: tuple[int, int, int] | None, has_visibility: bool) -> Content:
    """Read a gallery for a model of these shapes.

    Args:
        path: the file.
        embedding_size: D.
        map_shape: (C, h, w) of the maps; None: the model has no matcher, and there are none.
        has_visibility: whether the model predicts visibility.
    Raises:
        OSError: if it cannot be read. ValueError: one line that names the file and what is wrong in it.
    """
    with _opened(path) as archive:
        return _checked(_read_members(path, archive), embedding_size, map_shape, has_visibility)


def read_header(path: Path) -> dict[str, Any]:
    """Return the header of a gallery; errors are those of `read`."""
    with _opened(path) as archive:
        if archive.getinfo("header.npy").file_size > _MAX_HEADER:
            raise ValueError("header: too long")
        return _header(_load(archive.read("header.npy")))


@contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    """Open a gallery; what is wrong with its content becomes one line that names the file."""
    from datasets.faces.paths import open_regular

    try:
        with open_regular(path) as stream, zipfile.ZipFile(stream) as archive:
            yield archive
    except (ValueError, KeyError, EOFError, NotImplementedError, struct.error, zipfile.BadZipFile, zlib.error) as error:
        reason = " ".join(str(error).split())[:300]
        raise ValueError(f"{path}: no gallery that can be used, or damaged ({reason})") from error


def _read_members(path: Path, archive: zipfile.ZipFile) -> dict[str, NDArray]:
    arrays = {}
    for member in archive.infolist():
        name = member.filename.removesuffix(".npy")
        if member.compress_type != zipfile.ZIP_STORED or member.file_size != member.compress_size:
            raise ValueError(f"{name[:60]!r} is compressed; galleries are not")
        arrays[name] = _map(path, archive, member) if name.startswith("maps_") else _load(archive.read(member))
    return arrays


def _load(data: bytes) -> NDArray:
    stream = io.BytesIO(data)
    shape, dtype = _array_header(stream, len(data))
    return np.frombuffer(data, dtype, offset=stream.tell()).reshape(shape)


def _map(path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> NDArray:
    with archive.open(member) as inside:
        stream = io.BytesIO(inside.read(1024 * _HEADER_START))
    shape, dtype = _array_header(stream, member.file_size)
    with path.open("rb") as file:
        file.seek(member.header_offset)
        names = sum(_LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size)))
    start = member.header_offset + _LOCAL_HEADER.size + names + stream.tell()
    if 0 in shape:
        return np.empty(shape, dtype)
    return np.memmap(path, dtype, "r", start, shape)


def _array_header(stream: io.BytesIO, num_bytes: int) -> tuple[tuple[int, ...], np.dtype]:
    """Return shape and type of an array of numbers whose member has so many bytes, and leave the stream behind it."""
    if np.lib.format.read_magic(stream) != (1, 0):
        raise ValueError("an array of another version")
    shape, is_fortran, dtype = np.lib.format.read_array_header_1_0(stream)
    size = dtype.itemsize
    for side in shape:
        size *= side
    if dtype.hasobject or is_fortran or min(shape, default=0) < 0 or size != num_bytes - stream.tell():
        raise ValueError("an array that is not stored as plain numbers, whole")
    return shape, dtype


def _checked(
    arrays: Mapping[str, NDArray], embedding_size: int, map_shape: tuple[int, int, int] | None, has_visibility: bool
) -> Content:
    header = _header(arrays["header"])
    people, photographs = len(header["names"]), len(header["photographs"])
    expected = {
        "header": (np.uint8, arrays["header"].shape),
        "embedding": (np.float32, (people, embedding_size)),
        "length": (np.float32, (people,)),
        "digests": (np.uint8, (photographs, DIGEST_BYTES)),
        "owners": (np.int64, (photographs,)),
    }
    if map_shape is not None:
        channels, *sides = map_shape
        dtype = np.dtype(header["map_dtype"])
        for number in (0, 1):
            expected |= {f"maps_{number}": (dtype, (people, *sides, channels))}
            expected |= {f"lengths_{number}": (np.float32, (people, *sides))}
            expected |= {f"visibility_{number}": (np.float32, (people, *sides))} if has_visibility else {}
    if fault := _array_fault(arrays, expected):
        raise ValueError(fault)
    _check_numbers(arrays, people)
    views = tuple(
        View(arrays[f"maps_{number}"], arrays[f"lengths_{number}"], arrays.get(f"visibility_{number}"))
        for number in ((0, 1) if map_shape is not None else ())
    )
    return Content(header, Templates(arrays["embedding"], arrays["length"], views), arrays["digests"], arrays["owners"])


def _header(array: NDArray) -> dict[str, Any]:
    if array.dtype != np.uint8 or array.ndim != 1 or len(array) > _MAX_HEADER:
        raise ValueError("header: no text")
    try:
        header = json.loads(array.tobytes())
    except RecursionError as error:
        raise ValueError("header: nested too deeply") from error
    rules = {
        "schema": lambda found, place: None if found == SCHEMA else f"{place}: another version of galleries",
        "origin": ORIGIN,
        "map_dtype": lambda found, place: None if found in MAP_DTYPES else f"{place}: float16 or int8 expected",
        "names": each(""),
        "photographs": each(""),
        "strangers": named(each(0.0)),
    }
    if fault := first_fault(rules, header, "header"):
        raise ValueError(fault)
    if len(set(header["names"])) < len(header["names"]):
        raise ValueError("header.names: a person is there twice")
    return header


def _array_fault(arrays: Mapping[str, NDArray], expected: Mapping[str, tuple[Any, tuple[int, ...]]]) -> str | None:
    for name in arrays.keys() ^ expected.keys():
        return f"{name[:60]!r} is {'missing' if name in expected else 'unexpected'}"
    for name, (dtype, shape) in expected.items():
        found = arrays[name]
        if found.dtype != dtype or found.shape != shape:
            return f"{name}: {np.dtype(dtype)} {list(shape)} expected, found {found.dtype} {list(found.shape)}"
    return None


def _check_numbers(arrays: Mapping[str, NDArray], people: int) -> None:
    embedding, owners = arrays["embedding"], arrays["owners"]
    squares = np.einsum("gd,gd->g", embedding, embedding)  # NaN is near nothing
    if not (np.abs(squares - 1) <= _UNIT).all():
        raise ValueError("embedding: unit length expected")
    if not ((owners >= 0) & (owners < people)).all() or len(np.unique(owners)) != people:
        raise ValueError("owners: each photograph belongs to a person, and each person has one")
    for name, values in arrays.items():
        limit = 1 if name.startswith("visibility") else np.finfo(np.float32).max
        if name.startswith(("length", "visibility")) and not ((values >= 0) & (values <= limit)).all():
            raise ValueError(f"{name}: numbers from 0 to {limit:g} expected")
