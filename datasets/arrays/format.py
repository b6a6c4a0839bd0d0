"""How a cache of decoded images lies on the disk, and its files opened with nothing believed that they say.

arrays.json        what follows, its own checksum, a CRC-32 of every other file
shard-00000.npy    uint8 [S, 112, 112, 3] RGB, the last one shorter
originals.npy      int64 [N]: the position in the source of each image here
labels.npy         int64 [N]
names.bin          file name in the source of each image, each ended by a zero byte
identities.bin     name of each identity, likewise
unreadable.tsv     images that the source cannot give: position here, a tab, why; their pixels are zero
"""

from __future__ import annotations

import io
import json
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from datasets.faces.paths import open_regular
from transforms.landmarks import IMAGE_SIZE

MANIFEST: Final = "arrays.json"
ORIGINALS, LABELS, NAMES, IDENTITIES, MISSING = (
    "originals.npy", "labels.npy", "names.bin", "identities.bin", "missing.tsv",
)  # fmt: skip
FILES: Final = (ORIGINALS, LABELS, NAMES, IDENTITIES, MISSING)
FORMAT: Final = "maskwise arrays"
VERSION: Final = 1
IMAGE_SHAPE: Final = (IMAGE_SIZE, IMAGE_SIZE, 3)
IMAGE_BYTES: Final = IMAGE_SIZE * IMAGE_SIZE * 3
SHARD_IMAGES: Final = 2**13
MAX_SHARD_IMAGES: Final = 2**15

_MAX_MANIFEST_BYTES = 2**26
_MAX_FILE_BYTES = 2**34
_MAX_IMAGES = 2**40
_CHUNK_BYTES = 2**24


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What `arrays.json` says.

    Attributes:
        count: images.
        shard_images: in every shard but the last.
        identities: number of them.
        source: hex digits that change when the images of the source or the order change.
        shards: CRC-32 of each shard file.
        files: CRC-32 of every other file, by name.
    """

    count: int
    shard_images: int
    identities: int
    source: str
    shards: Sequence[int]
    files: dict[str, int]

    def to_json(self) -> str:
        """Return the text of the file, its own checksum included."""
        content = {"format": FORMAT, "version": VERSION, **asdict(self)}
        return json.dumps({**content, "crc32": _crc_of(content)}, indent=1)

    def rows(self, shard: int) -> int:
        """Return the images of one shard."""
        return min(self.shard_images, self.count - shard * self.shard_images)


def is_cache(folder: Path) -> bool:
    """Return whether a folder says that it is a cache of decoded images."""
    return (folder / MANIFEST).is_file()


def read_manifest(folder: Path) -> Manifest:
    """Return what a cache says of itself.

    Raises:
        ValueError: if the folder is no such cache, or its manifest is damaged or of a later version.
    """
    file = folder / MANIFEST
    try:
        with open_regular(file) as stream:
            text = stream.read(_MAX_MANIFEST_BYTES)
        content = json.loads(text)
        stated = content.pop("crc32")
        known = content.pop("format") == FORMAT and content["version"] == VERSION
        if known and stated == _crc_of({"format": FORMAT, **content}):
            content.pop("version")
            manifest = Manifest(**content)
            _check(manifest)
            return manifest
        reason = "damaged" if known else "not a cache of this version; convert the images again"
    except FileNotFoundError as error:
        raise ValueError(f"{folder}: no {MANIFEST} lies there: not what `convert --to arrays` writes") from error
    except OSError as error:
        raise ValueError(f"{file}: cannot be read ({error.strerror})") from error
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        reason = "damaged"
    raise ValueError(f"{file}: {reason}; `convert --to arrays --overwrite` makes the cache again")


def shard_name(shard: int) -> str:
    """Return the file name of a shard."""
    return f"shard-{shard:05d}.npy"


def shard_header(rows: int) -> bytes:
    """Return the first bytes of a shard file; the pixels follow."""
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        stream, {"descr": "|u1", "fortran_order": False, "shape": (rows, *IMAGE_SHAPE)}
    )
    return stream.getvalue()


def file_crc(path: Path) -> int:
    """Return the CRC-32 of a file, read once from its beginning.

    Raises:
        OSError: if it cannot be read.
    """
    checksum = 0
    with open_regular(path) as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            checksum = zlib.crc32(chunk, checksum)
    return checksum


def read_numbers(path: Path, crc: int, count: int, below: int) -> NDArray[np.int64]:
    """Return int64 [count] of a file whose checksum is right, all of them in [0, below).

    Raises:
        ValueError: if it holds anything else.
    """
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<i8", "fortran_order": False, "shape": (count,)})
    expected = header.getvalue()
    data = read_checked(path, crc)
    if not data.startswith(expected) or len(data) != len(expected) + 8 * count:
        raise ValueError(f"{path}: damaged, not {count} whole numbers")
    numbers = np.frombuffer(data, "<i8", offset=len(expected)).astype(np.int64, copy=False)
    if numbers.size and not 0 <= numbers.min() <= numbers.max() < below:
        raise ValueError(f"{path}: damaged, a number is not in [0, {below})")
    return numbers


def read_checked(path: Path, crc: int, limit: int = _MAX_FILE_BYTES) -> bytes:
    """Return the content of a file that is no shard.

    Raises:
        ValueError: if it cannot be read, is too large, or its checksum is another.
    """
    try:
        with open_regular(path) as stream:
            data = stream.read(limit + 1)
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror})") from error
    if len(data) > limit or zlib.crc32(data) != crc:
        raise ValueError(f"{path}: damaged; `convert --to arrays` with the same source makes it again")
    return data


def read_names(data: bytes, count: int, path: Path) -> list[bytes]:
    """Return the names in a file's content, each ended by a zero byte.

    Raises:
        ValueError: if there are not `count`, or one leads out of a folder.
    """
    names = data.split(b"\0")
    if names.pop() != b"" or len(names) != count:
        raise ValueError(f"{path}: damaged, not {count} names")
    bounded = b"\0" + data
    if any(word in bounded for word in (b"\0/", b"\0../", b"/../", b"/..\0", b"\0..\0")):
        raise ValueError(f"{path}: a name leads out of the folder")
    return names


def _check(manifest: Manifest) -> None:
    """Raise ValueError unless the numbers can be those of a cache."""
    sizes = (manifest.count, manifest.shard_images, manifest.identities, *manifest.shards, *manifest.files.values())
    if any(type(size) is not int for size in sizes) or not isinstance(manifest.source, str):
        raise ValueError("not whole numbers")
    expected = -(-manifest.count // manifest.shard_images) if manifest.shard_images > 0 else -1
    if not 0 < manifest.count <= _MAX_IMAGES or expected != len(manifest.shards) or set(manifest.files) != set(FILES):
        raise ValueError("contradictory")


def _crc_of(content: object) -> int:
    return zlib.crc32(json.dumps(content, sort_keys=True).encode())
