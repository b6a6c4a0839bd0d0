"""The folder of embeddings that `embed` writes, opened with nothing believed that its files say.

embeddings.npy    float16 or float32 [N, D], of unit length
labels.npy        int64 [N], people; absent where nobody names them
images.csv        index, name and more
embeddings.json   format, count, dim, dtype, weights_sha256 and more
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from datasets.faces.paths import open_regular

DESCRIPTION, IMAGES, LABELS, EMBEDDINGS = "embeddings.json", "images.csv", "labels.npy", "embeddings.npy"
DTYPES: Final = ("float16", "float32")
_MAX_DESCRIPTION_BYTES = 2**20
_MAX_DIM = 2**16


@dataclass(frozen=True, eq=False)
class Embeddings:
    """Embeddings of N images.

    Attributes:
        embeddings: float16 or float32 [N, D], of unit length; mapped, not read.
        labels: int64 [N], None where there are none.
        facts: what embeddings.json says.
        folder: that they lie in.
    """

    embeddings: NDArray[np.floating]
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
    facts = _read_facts(root)
    embeddings = _map(root / EMBEDDINGS, (facts["count"], facts["dim"]), facts["dtype"])
    labels = _map(root / LABELS, (facts["count"],), "int64") if (root / LABELS).exists() else None
    return Embeddings(embeddings, labels, facts, root)


def read_names(root: Path, count: int) -> list[str] | None:
    """Return the names of the images in images.csv; None where there is no such file.

    Raises:
        ValueError: if there are not as many, or the file cannot be read.
    """
    file = root / IMAGES
    if not file.exists():
        return None
    try:
        open_regular(file).close()
        with file.open(encoding="utf-8", newline="") as stream:
            names = [row["name"] for row in csv.DictReader(stream)]
    except (OSError, KeyError, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{file}: cannot be read ({error})") from error
    if len(names) != count:
        raise ValueError(f"{file}: {len(names)} names of {count} images")
    return names


def _read_facts(root: Path) -> dict[str, Any]:
    file = root / DESCRIPTION
    try:
        with open_regular(file) as stream:
            facts = json.loads(stream.read(_MAX_DESCRIPTION_BYTES))
        sizes = facts["count"], facts["dim"]
        is_known = facts["dtype"] in DTYPES and isinstance(facts["weights_sha256"], str)
        if is_known and all(type(size) is int for size in sizes) and sizes[0] > 0 and 0 < sizes[1] <= _MAX_DIM:
            return facts
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ValueError(f"{root}: no {DESCRIPTION} lies there: not what `embed` writes") from error
    except OSError as error:
        raise ValueError(f"{file}: cannot be read ({error.strerror})") from error
    except (ValueError, TypeError, KeyError, RecursionError):
        pass
    raise ValueError(f"{file}: damaged, or not what this version of `embed` writes")


def _map(path: Path, shape: tuple[int, ...], dtype: str) -> NDArray:
    """Return an array of the form that is expected, mapped; nothing in a file is executed."""
    try:
        open_regular(path).close()
        array = np.lib.format.open_memmap(path, mode="r")
    except FileNotFoundError as error:
        raise ValueError(f"{path}: missing") from error
    except (OSError, ValueError, TypeError, SyntaxError, MemoryError, RecursionError, OverflowError) as error:
        raise ValueError(f"{path}: damaged ({error})") from error
    if array.shape != shape or array.dtype != np.dtype(dtype):
        raise ValueError(f"{path}: {array.dtype} {list(array.shape)} instead of {dtype} {list(shape)}")
    return array
