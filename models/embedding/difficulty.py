"""How hard the images of a data set are to recognize, as a network told of them: larger is harder."""

from __future__ import annotations

import csv
import logging
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from datasets import FaceDataset
from datasets.faces.paths import open_regular
from models.embedding.folder import IMAGES, Embeddings, read_embeddings, read_names
from models.embedding.people import losses_among_people
from system.terminal import escaped

logger = logging.getLogger(__name__)


def told_difficulty(dataset: FaceDataset, kind: str, place: str | Path) -> NDArray[np.float64]:
    """Return how hard each image is by what a network told of it, float64 [N]; images are found by their names.

    One of which nothing is told, as of those that could not be read, is as hard as the hardest.

    Args:
        dataset: N images.
        kind: "visible": 1 less the share of the face that is visible, "norm": less the length of the embedding, which
            quality raises in networks that were trained with a margin, both of a folder that `embed` wrote; "loss": of
            such a folder `losses_among_people`, or the numbers of a table (CSV) with the columns name and loss.
        place: the folder, or the table.
    Raises:
        ValueError: one line that names the file, if it cannot be read, or tells of less than half of the images.
    """
    told = _TOLD[kind](Path(place))
    found = (told.get(escaped(dataset.paths.relative(number)), math.nan) for number in range(len(dataset)))
    values = np.fromiter(found, np.float64, len(dataset))
    unknown = np.isnan(values)
    if missing := int(unknown.sum()):
        name = escaped(dataset.paths.relative(int(unknown.argmax())))
        if 2 * missing > len(dataset):
            raise ValueError(
                f"{place}: tells nothing of {missing} of the {len(dataset)} images, as of {name}; names are those of "
                f"files below {dataset.paths.root}"
            )
        logger.warning("%s: tells nothing of %d of %d images, as of %s", place, missing, len(dataset), name)
    return np.where(unknown, np.nanmax(values), values)


def _of_visible(folder: Path) -> dict[str, float]:
    shares = _column(folder / IMAGES, "quality")
    if not any(0 <= share <= 1 for share in shares.values()):
        raise ValueError(f"{folder / IMAGES}: no visible share of any image; embed with a network that tells it")
    return {name: 1 - share for name, share in shares.items()}


def _of_norm(folder: Path) -> dict[str, float]:
    embedded = read_embeddings(folder)
    return _named(embedded, -embedded.norms.astype(np.float64))


def _of_loss(place: Path) -> dict[str, float]:
    if not place.is_dir():
        return _column(place, "loss")
    embedded = read_embeddings(place)
    return _named(embedded, losses_among_people(embedded))


def _named(embedded: Embeddings, values: NDArray[np.float64]) -> dict[str, float]:
    return dict(zip(read_names(embedded.folder, len(embedded)), values.tolist(), strict=True))


def _column(table: Path, column: str) -> dict[str, float]:
    """Return a column of numbers by the column of names; NaN where it is empty."""
    try:
        open_regular(table).close()
        with table.open(encoding="utf-8", newline="") as stream:
            found = {row["name"]: float(row[column] or math.nan) for row in csv.DictReader(stream)}
    except (OSError, KeyError, TypeError, ValueError, csv.Error) as error:
        raise ValueError(f"{table}: no table with the columns name and {column} ({escaped(str(error))})") from error
    if any(map(math.isinf, found.values())):
        raise ValueError(f"{table}: a number of {column} is not finite")
    return found


_TOLD: dict[str, Callable[[Path], dict[str, float]]] = {
    "visible": _of_visible,
    "norm": _of_norm,
    "loss": _of_loss,
}
