"""Embeddings as a parquet file, for those who have pyarrow."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from system.files import replacing


class Part(NamedTuple):
    """Some rows of the table.

    Attributes:
        places: int64 [B], in the source.
        names: of the images.
        labels: int64 [B], None where there are none.
        norms, quality: float32 [B]; a quality of NaN is not known.
        embeddings: float16 or float32 [B, D].
    """

    places: NDArray[np.int64]
    names: list[str]
    labels: NDArray[np.int64] | None
    norms: NDArray[np.float32]
    quality: NDArray[np.float32]
    embeddings: NDArray[np.floating]


def pyarrow() -> Any:
    """Return the package.

    Raises:
        ValueError: if it is not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ModuleNotFoundError as error:
        raise ValueError(
            "parquet needs pyarrow, which is not installed: `make setup-extras`, or --format npy"
        ) from error
    return pyarrow


def write_parquet(path: Path, parts: Iterator[Part], dtype: str, dim: int, has_labels: bool) -> None:
    """Write the table, a row group for each part; it appears as a whole.

    Raises:
        OSError: if it cannot be written.
    """
    pa = pyarrow()
    number = {"float16": pa.float16(), "float32": pa.float32()}[dtype]
    columns = [("index", pa.int64()), ("name", pa.string()), ("label", pa.int64()), ("norm", pa.float32())]
    columns += [("quality", pa.float32()), ("embedding", pa.list_(number, dim))]
    schema = pa.schema([column for column in columns if has_labels or column[0] != "label"])
    with replacing(path) as temporary, pa.parquet.ParquetWriter(temporary, schema) as writer:
        for part in parts:
            values = pa.array(np.ascontiguousarray(part.embeddings).reshape(-1), number)
            arrays = {
                "index": pa.array(part.places),
                "name": pa.array(part.names),
                "label": part.labels if part.labels is None else pa.array(part.labels),
                "norm": pa.array(part.norms),
                "quality": pa.array(part.quality, pa.float32(), mask=np.isnan(part.quality)),
                "embedding": pa.FixedSizeListArray.from_arrays(values, dim),
            }
            writer.write_table(pa.Table.from_arrays([arrays[name] for name in schema.names], schema=schema))


def read_parquet(
    path: Path, count: int, dim: int
) -> tuple[NDArray[np.floating], NDArray[np.float32], NDArray[np.int64] | None]:
    """Return embeddings [N, D], norms [N] and labels [N] or None.

    Raises:
        ValueError: if the file is damaged or of other form.
    """
    pa = pyarrow()
    try:
        file = pa.parquet.ParquetFile(path)
        if file.metadata.num_rows != count:
            raise ValueError(f"{file.metadata.num_rows} rows instead of {count}")
        names = [name for name in ("embedding", "norm", "label") if name in file.schema_arrow.names]
        table = file.read(names).combine_chunks()
        flat = [chunk.flatten().to_numpy(zero_copy_only=False) for chunk in table["embedding"].chunks]
        embeddings = np.concatenate(flat).reshape(count, dim)
        labels = table["label"].to_numpy().astype(np.int64) if "label" in names else None
        return embeddings, table["norm"].to_numpy().astype(np.float32), labels
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        raise ValueError(f"{path}: damaged ({' '.join(str(error).split())[:200]})") from error


def read_names_of(path: Path, count: int) -> list[str]:
    """Return the names of the images, as `escaped` wrote them.

    Raises:
        ValueError: if the file is damaged or of other form.
    """
    pa = pyarrow()
    try:
        names = pa.parquet.ParquetFile(path).read(["name"])["name"].to_pylist()
        if len(names) != count or not all(isinstance(name, str) for name in names):
            raise ValueError(f"{len(names)} names of {count} images")
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        raise ValueError(f"{path}: damaged ({' '.join(str(error).split())[:200]})") from error
    return names
