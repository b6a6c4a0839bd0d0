"""The folder that `embed` writes, and its files opened with nothing believed that they say.

    embeddings.npy    float16 or float32 [N, D], of unit length
    norms.npy         float32 [N], lengths before
    labels.npy        int64 [N], people; absent where nobody names them
    images.csv        index (place in the source), name, label, quality (share of the face that is visible)
    embeddings.json   count, dim, dtype, weights_sha256, arch, encoder, source, template, versions, and more

or, as parquet, embeddings.parquet in place of the first four.
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from datasets.faces.paths import open_regular

FORMAT: Final = "maskwise embeddings 1"
DESCRIPTION, IMAGES, LABELS = "embeddings.json", "images.csv", "labels.npy"
EMBEDDINGS, NORMS, PARQUET = "embeddings.npy", "norms.npy", "embeddings.parquet"
DTYPES: Final = ("float16", "float32")
COLUMNS: Final = ("index", "name", "label", "quality")
_MAX_DESCRIPTION_BYTES = 2**20
_MAX_DIM = 2**16


@dataclass(frozen=True, eq=False)
class Embeddings:
    """Embeddings of N images.

    Attributes:
        embeddings: float16 or float32 [N, D], of unit length; mapped, not read.
        norms: float32 [N].
        labels: int64 [N] >= 0, None where there are none.
        facts: what embeddings.json says.
        folder: that they lie in.
    """

    embeddings: NDArray[np.floating]
    norms: NDArray[np.float32]
    labels: NDArray[np.int64] | None
    facts: Mapping[str, Any]
    folder: Path

    def __len__(self) -> int:
        return len(self.embeddings)


def read_embeddings(folder: str | Path) -> Embeddings:
    """Open the folder that `embed` wrote.

    Raises:
        ValueError: one line that names the file, if the folder is none or a file is missing, damaged or of other form.
    """
    root = Path(folder)
    facts = read_facts(root)
    count, dim = facts["count"], facts["dim"]
    if (root / PARQUET).is_file():
        from models.embedding.parquet import read_parquet

        embeddings, norms, labels = read_parquet(root / PARQUET, count, dim)
    else:
        embeddings = _map(root / EMBEDDINGS, (count, dim), facts["dtype"])
        norms = np.array(_map(root / NORMS, (count,), "float32"))
        labels = np.array(_map(root / LABELS, (count,), "int64")) if (root / LABELS).exists() else None
    if not np.isfinite(norms).all():
        raise ValueError(f"{root / NORMS}: damaged, a norm is not finite")
    if labels is not None and labels.size and labels.min() < 0:
        raise ValueError(f"{root / LABELS}: damaged, a label is below 0")
    return Embeddings(embeddings, norms, labels, facts, root)


def read_facts(root: Path) -> dict[str, Any]:
    """Return what embeddings.json of a folder says.

    Raises:
        ValueError: if it is missing or says something impossible.
    """
    file = root / DESCRIPTION
    try:
        with open_regular(file) as stream:
            facts = json.loads(stream.read(_MAX_DESCRIPTION_BYTES))
        sizes = facts["count"], facts["dim"]
        is_known = facts["format"] == FORMAT and facts["dtype"] in DTYPES and isinstance(facts["weights_sha256"], str)
        if is_known and all(type(size) is int for size in sizes) and sizes[0] > 0 and 0 < sizes[1] <= _MAX_DIM:
            return facts
    except FileNotFoundError as error:
        raise ValueError(f"{root}: no {DESCRIPTION} lies there: not what `embed` writes") from error
    except OSError as error:
        raise ValueError(f"{file}: cannot be read ({error.strerror})") from error
    except (ValueError, TypeError, KeyError, RecursionError):
        pass
    raise ValueError(f"{file}: damaged, or not what this version of `embed` writes")


def read_names(root: Path, count: int) -> list[str]:
    """Return the names of the images, as `escaped` wrote them.

    Raises:
        ValueError: if there are not as many.
    """
    if (root / PARQUET).is_file():
        from models.embedding.parquet import read_names_of

        return read_names_of(root / PARQUET, count)
    file = root / IMAGES
    try:
        open_regular(file).close()
        with file.open(encoding="utf-8", newline="") as stream:
            names = [row["name"] for row in csv.DictReader(stream)]
    except (OSError, KeyError, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{file}: cannot be read ({error})") from error
    if len(names) != count:
        raise ValueError(f"{file}: {len(names)} names of {count} images")
    return names


def content_checksum(root: Path) -> str:
    """Return the SHA-256 of the file that holds the embeddings, in hexadecimal."""
    file = root / PARQUET
    with open_regular(file if file.is_file() else root / EMBEDDINGS) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _map(path: Path, shape: tuple[int, ...], dtype: str) -> NDArray:
    """Return an array of the form that is expected, mapped; nothing in a file is executed."""
    try:
        array = np.lib.format.open_memmap(path, mode="r")
    except FileNotFoundError as error:
        raise ValueError(f"{path}: missing") from error
    except (OSError, ValueError, TypeError, SyntaxError, MemoryError, RecursionError, OverflowError) as error:
        raise ValueError(f"{path}: damaged ({error})") from error
    if array.shape != shape or array.dtype != np.dtype(dtype):
        raise ValueError(f"{path}: {array.dtype} {list(array.shape)} instead of {dtype} {list(shape)}")
    return array
