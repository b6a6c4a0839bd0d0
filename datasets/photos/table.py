"""alignment.csv: a row for each photograph, in the order of the source."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from datasets.photos.aligned import Aligned
from system.terminal import escaped
from transforms import align

COLUMNS = (
    *("path", "status", "look", "faces", "score", "box_x1", "box_y1", "box_x2", "box_y2"),
    *(f"{axis}{number}" for number in range(1, 6) for axis in "xy"),
    *("m11", "m12", "m13", "m21", "m22", "m23", "residual", "scale", "inside", "detector", "crop", "reason"),
)


def heading() -> bytes:
    """Return the first line."""
    return csv_line(COLUMNS)


def row(name: str, aligned: Aligned, detector: str, crop: str) -> bytes:
    """Return the line of a photograph; numbers that do not exist are empty.

    Args:
        name, crop: paths of the photograph and of its crop, "" if it has none.
        aligned: what became of it.
        detector: its name.
    """
    numbers: list[str] = []
    for array, length, digits in ((aligned.box, 4, 2), (aligned.points, 10, 3), (aligned.matrix, 6, 8)):
        numbers += [""] * length if array is None else [f"{value:.{digits}f}" for value in np.ravel(array).tolist()]
    found = aligned.points is not None
    scale = "" if aligned.matrix is None else f"{align.scale(aligned.matrix):.6g}"
    return csv_line([
        escaped(name), aligned.status, aligned.look, str(aligned.num_faces), f"{aligned.score:.4f}" if found else "",
        *numbers, f"{aligned.residual:.3f}" if found else "", scale, f"{aligned.inside:.3f}" if found else "",
        escaped(detector), escaped(crop), escaped(aligned.reason),
    ])  # fmt: skip


def read_rows(file: Path) -> Iterator[dict[str, str]]:
    """Yield the rows of a table as text by column."""
    with file.open(encoding="utf-8", newline="") as stream:
        yield from csv.DictReader(stream)


def csv_line(words: Sequence[str]) -> bytes:
    """Return words as a line of a table."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(words)
    return text.getvalue().encode()
