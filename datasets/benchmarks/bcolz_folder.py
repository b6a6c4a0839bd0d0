"""AdaFace's benchmark sets: a bcolz folder of normalized BGR floats beside `<name>_list.npy` with the answers.

A bcolz folder holds `meta/sizes` and `meta/storage` (JSON) and the rows in chunks `data/__0.blp`, `data/__1.blp`, ...:
16 bytes that start with "blpk", then one Blosc buffer. Pixels are stored as (value / 255 - 0.5) / 0.5.

References: Blosc/bcolz, DISK_FORMAT_v1.rst; Blosc/c-blosc, README_CHUNK_FORMAT.rst; mk-minchul/AdaFace, convert.py.
"""

from __future__ import annotations

import json
import math
import os
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from datasets.benchmarks.benchmark_folder import PairStream, map_array
from datasets.benchmarks.converted import Source
from datasets.faces.paths import open_regular
from datasets.sample import Image
from transforms.landmarks import IMAGE_SIZE

_ROW = (3, IMAGE_SIZE, IMAGE_SIZE)
_DTYPES = re.compile(r"float(16|32|64)|[<>=]?f[248]")
# A default value may be listed for every pixel of a row, 0.5 MB.
_MAX_META_BYTES = 2**24
_PACK_BYTES = 16
_BLOSC = struct.Struct("<BBBBIII")  # version, version of the codec, flags, item size, bytes, bytes a block, compressed
_BLOSC_VERSIONS = (1, 2)
# In the flags: the codec in the upper three bits, and whether the bytes are stored as they are.
_SNAPPY = 2
_STORED = 2
# How far from a whole number a pixel may be: float16 rounds to 0.06, other normalizations are off by 0.5.
_TOLERANCE = 0.1


@dataclass(frozen=True, eq=False)
class BcolzFolder:
    """A bcolz folder of images, as its metadata describe it.

    Attributes:
        folder: where it is.
        issame: bool [N], the answers beside it.
        chunk_rows: images in each chunk, fewer in the last.
        dtype: of the stored values.
    """

    folder: Path
    issame: NDArray[np.bool_]
    chunk_rows: int
    dtype: np.dtype

    @property
    def num_images(self) -> int:
        """Two a pair."""
        return 2 * len(self.issame)

    @property
    def chunks(self) -> list[str]:
        """The files of the chunks, in order, relative to the folder."""
        return [f"data/__{number}.blp" for number in range(-(-self.num_images // self.chunk_rows))]

    @property
    def row_bytes(self) -> int:
        """Bytes of one image."""
        return math.prod(_ROW) * self.dtype.itemsize


def is_bcolz(folder: Path) -> bool:
    """Return whether a folder is laid out by bcolz."""
    return (folder / "meta" / "sizes").is_file() and (folder / "meta" / "storage").is_file()


def answers_beside(folder: Path) -> Path:
    """Return the file beside a bcolz folder that holds the answers of its pairs."""
    return folder.with_name(f"{folder.name}_list.npy")


def open_bcolz(folder: Path) -> Source:
    """Return the set in a bcolz folder and the answers beside it; see `read_bcolz`.

    Raises:
        ValueError: naming the file, if metadata or answers are damaged or contradict each other.
    """
    opened = read_metadata(folder)
    meta = [f"{folder.name}/meta/sizes", f"{folder.name}/meta/storage", answers_beside(folder).name]
    names = meta + [f"{folder.name}/{chunk}" for chunk in opened.chunks]
    return Source(folder.parent, names, meta, lambda: read_bcolz(opened))


def read_metadata(folder: Path) -> BcolzFolder:
    """Read the metadata of a bcolz folder and the answers beside it.

    Raises:
        ValueError: naming the file, if it is damaged, the rows are anything but two [3, 112, 112] floats an answer.
    """
    # The answers first: their number is what the file really holds, those in the metadata may be of any size.
    answers = answers_beside(folder)
    issame = np.array(map_array(answers))
    if issame.dtype != np.bool_ or issame.ndim != 1 or not issame.size:
        raise ValueError(f"{answers}: expected bool [N], an answer a pair, got {issame.dtype} {list(issame.shape)}")
    sizes, storage = _read_json(folder / "meta" / "sizes"), _read_json(folder / "meta" / "storage")
    shape, dtype, chunk_rows = sizes.get("shape"), storage.get("dtype"), storage.get("chunklen")
    if shape != [2 * len(issame), *_ROW]:
        raise ValueError(
            f"{folder}/meta/sizes: shape must be {[2 * len(issame), *_ROW]} for the {len(issame)} answers in "
            f"{answers}, got {_describe(shape)}"
        )
    if not isinstance(dtype, str) or not _DTYPES.fullmatch(dtype):
        raise ValueError(f"{folder}/meta/storage: dtype must be float16, float32 or float64, got {_describe(dtype)}")
    if not isinstance(chunk_rows, int) or chunk_rows <= 0:
        raise ValueError(f"{folder}/meta/storage: chunklen must be a number of images, got {_describe(chunk_rows)}")
    return BcolzFolder(folder, issame, chunk_rows, np.dtype(dtype))


def read_bcolz(opened: BcolzFolder) -> PairStream:
    """Return the pairs of a bcolz folder.

    Chunks may have any size, Blosc codec and shuffle. Images are decompressed as they are asked for; their iterator
    raises ValueError with the file where a chunk is missing or damaged, or holds other values than normalized pixels.
    """
    return PairStream(_read_rows(opened), opened.num_images, opened.issame)


def _read_rows(opened: BcolzFolder) -> Iterator[Image]:
    left = opened.num_images
    for name in opened.chunks:
        file = opened.folder / name
        num_rows = min(left, opened.chunk_rows)
        for index, row in enumerate(_read_chunk(file, num_rows, opened)):
            yield _to_image(row, f"{file}, image {index} in it")
        left -= num_rows


def _read_chunk(file: Path, num_rows: int, opened: BcolzFolder) -> NDArray[np.floating]:
    """Return [num_rows, 3, 112, 112] values of a chunk."""
    # bcolz may leave room in the last chunk.
    sizes = range(num_rows * opened.row_bytes, opened.chunk_rows * opened.row_bytes + 1, opened.row_bytes)
    try:
        with open_regular(file) as stream:
            header = stream.read(_PACK_BYTES + _BLOSC.size)
            num_bytes = _check_header(header, os.fstat(stream.fileno()).st_size, sizes, file)
            data = header[_PACK_BYTES:] + stream.read()
    except OSError as error:
        raise ValueError(f"{file}: cannot be read ({error.strerror})") from error
    values = np.frombuffer(_decompress(data, num_bytes, file), opened.dtype)
    return values.reshape(-1, *_ROW)[:num_rows]


def _check_header(header: bytes, file_bytes: int, sizes: range, file: Path) -> int:
    """Return how many bytes a chunk decompresses to, after comparing what it states with what is possible."""
    if len(header) < _PACK_BYTES + _BLOSC.size or not header.startswith(b"blpk"):
        raise ValueError(f"{file}: not a chunk of bcolz, or cut off")
    version, _, flags, _, num_bytes, _, compressed = _BLOSC.unpack_from(header, _PACK_BYTES)
    if version not in _BLOSC_VERSIONS:
        raise ValueError(f"{file}, byte {_PACK_BYTES}: Blosc format {version}; formats 1 and 2 are known")
    if num_bytes not in sizes:
        raise ValueError(f"{file}, byte {_PACK_BYTES + 4}: it states {num_bytes} bytes of images, expected {sizes[0]}")
    if compressed != file_bytes - _PACK_BYTES or compressed > num_bytes + _BLOSC.size:
        raise ValueError(
            f"{file}, byte {_PACK_BYTES + 12}: it states {compressed} compressed bytes for {num_bytes}, and holds "
            f"{file_bytes - _PACK_BYTES}; the file is cut off or damaged"
        )
    if flags >> 5 == _SNAPPY and not flags & _STORED:
        raise ValueError(f"{file}: compressed with Snappy, which Blosc no longer contains; write it with another codec")
    return num_bytes


def _decompress(data: bytes, num_bytes: int, file: Path) -> NDArray[np.uint8]:
    from numcodecs import blosc  # loads every codec of the package, and few runs convert anything

    values = np.empty(num_bytes, np.uint8)
    try:
        blosc.decompress(data, values)
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"{file}: Blosc cannot decompress it ({error}); the file is damaged") from error
    return values


def _to_image(row: NDArray[np.floating], place: str) -> Image:
    with np.errstate(invalid="ignore", over="ignore"):
        pixels = row.astype(np.float32) * 127.5 + 127.5
        values = np.rint(pixels)
        valid = (np.abs(pixels - values) <= _TOLERANCE).all() and values.min() >= 0 and values.max() <= 255
    if not valid:
        raise ValueError(f"{place}: not values of (pixel / 255 - 0.5) / 0.5; it is damaged or normalized otherwise")
    return np.ascontiguousarray(values[::-1].transpose(1, 2, 0).astype(np.uint8))


def _read_json(file: Path) -> dict[str, object]:
    try:
        with open_regular(file) as stream:
            text = stream.read(_MAX_META_BYTES + 1)
        # Cut off at the limit, a larger file is no JSON either.
        content = json.loads(text)
    except OSError as error:
        raise ValueError(f"{file}: cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file}: not JSON that can be read ({error})") from error
    if not isinstance(content, dict):
        raise ValueError(f"{file}: metadata of bcolz are a JSON object, got {_describe(content)}")
    return content


def _describe(value: object) -> str:
    # Containers may nest deeply: only a shape is spelled out.
    if isinstance(value, list):
        return str(value) if len(value) < 9 and all(type(item) is int for item in value) else "another list"
    return repr(value)[:60] if isinstance(value, str | int | float | None) else type(value).__name__
