"""Pictures of a diagnosis: a sheet of images to look at, and how many images the identities have."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np

from datasets.doctor.diagnosis import Diagnosis
from datasets.doctor.report import place_in_sets
from datasets.faces.images import UnreadableImageError
from datasets.faces.sheet import COLUMNS, INK, Cell, draw_row, put_text, write_picture
from datasets.sample import Image

_BAR = (178, 114, 0)  # BGR; the blue of Okabe and Ito
_PLOT_HEIGHT, _BAR_WIDTH, _MARGIN = 300, 56, 50
# So many bars of one number each; above, every bar holds twice as many numbers as the one before.
_MAX_SINGLE = 16


def write_sheet(file: Path, diagnosis: Diagnosis) -> None:
    """Draw images of the set, evenly spaced, and below them the first images of each kind of finding."""
    rows = [(title, cells) for title, cells in _sections(diagnosis) if cells]
    canvas = np.concatenate([draw_row(title, cells[:COLUMNS]) for title, cells in rows])
    write_picture(file, canvas)


def write_histogram(file: Path, counts: np.ndarray) -> None:
    """Draw how many identities have how many images.

    Args:
        file: PNG to write.
        counts: int64 [C] >= 1, images of each identity.
    """
    edges = _edges(int(counts.max()))
    heights = np.histogram(counts, [*edges, counts.max() + 1])[0]
    canvas = np.full((_PLOT_HEIGHT + 2 * _MARGIN, len(edges) * _BAR_WIDTH + 2 * _MARGIN, 3), 255, np.uint8)
    bottom = _MARGIN + _PLOT_HEIGHT
    for place, height in enumerate(heights.tolist()):
        left = _MARGIN + place * _BAR_WIDTH
        top = bottom - round(_PLOT_HEIGHT * height / heights.max())
        cv2.rectangle(canvas, (left + 4, top), (left + _BAR_WIDTH - 4, bottom), _BAR, cv2.FILLED)
        put_text(canvas, str(height), (left + 6, top - 5))
        last = (edges[place + 1] if place + 1 < len(edges) else int(counts.max()) + 1) - 1
        put_text(
            canvas, str(edges[place]) if last == edges[place] else f"{edges[place]}-{last}", (left + 6, bottom + 16)
        )
    cv2.line(canvas, (_MARGIN, bottom), (canvas.shape[1] - _MARGIN, bottom), INK, 1)
    put_text(canvas, "identities", (8, 20), 0.45)
    put_text(canvas, "images per identity", (_MARGIN, bottom + 38), 0.45)
    write_picture(file, canvas)


def _sections(diagnosis: Diagnosis) -> Iterator[tuple[str, list[Cell]]]:
    dataset, copies, channels = diagnosis.dataset, diagnosis.duplicates, diagnosis.channels
    if dataset is not None and copies is not None and channels is not None:
        spread = np.unique(np.linspace(0, len(dataset) - 1, 2 * COLUMNS).astype(np.int64)).tolist()
        yield "the set, evenly spaced", _own(diagnosis, spread[0::2])
        yield "", _own(diagnosis, spread[1::2])
        yield "unaligned? the worst first", _own(diagnosis, diagnosis.unaligned[:COLUMNS].tolist())
        yield "red and blue swapped? the bluest first", _own(diagnosis, channels.clearly_blue[:COLUMNS].tolist())
        across = diagnosis.crosses(copies.exact.first, copies.exact.second)
        yield "exact copies, those of two identities first", _couples(diagnosis, copies.exact[:2], ~across)
        across = diagnosis.crosses(copies.near.first, copies.near.second)
        yield "near copies, those of two identities first", _couples(diagnosis, copies.near[:2], ~across)
        yield "in the set and in a benchmark set", _couples(diagnosis, copies.shared[:2], copies.shared.distance)
    for other in diagnosis.sets:
        indices = np.linspace(0, len(other.rows) - 1, COLUMNS).astype(np.int64).tolist()
        cells = [Cell(np.asarray(other.benchmark.images[index]), f"image {index}") for index in indices]
        yield f"benchmark {other.benchmark.name}", cells


def _own(diagnosis: Diagnosis, indices: Sequence[int]) -> list[Cell]:
    """Return images of the set or of benchmark sets, without those that cannot be read."""
    dataset, looked = diagnosis.dataset, diagnosis.looked
    assert dataset is not None and looked is not None
    cells = []
    for index in indices:
        if index >= len(dataset):
            cells.append(Cell(_of_sets(diagnosis, index - len(dataset)), place_in_sets(diagnosis, index)))
        elif looked.rows["readable"][index]:
            try:
                cells.append(Cell(dataset.read(index), "/".join(dataset.paths[index].parts[-2:])))
            except UnreadableImageError:
                continue  # it was readable a moment ago: somebody is at work on the files
    return cells


def _of_sets(diagnosis: Diagnosis, position: int) -> Image:
    for other in diagnosis.sets:
        if position < len(other.rows):
            return np.asarray(other.benchmark.images[position])
        position -= len(other.rows)
    raise AssertionError(f"no set holds image {position}")


def _couples(diagnosis: Diagnosis, pairs: tuple[np.ndarray, ...], rank: np.ndarray) -> list[Cell]:
    """Return pairs side by side, those of low rank first."""
    order = np.argsort(rank, kind="stable")[: COLUMNS // 2]
    return _own(diagnosis, np.stack(pairs, axis=1)[order].ravel().tolist())


def _edges(largest: int) -> list[int]:
    """Return the first number of each bar."""
    if largest <= _MAX_SINGLE:
        return list(range(1, largest + 1))
    edges, width = [1], 1
    while edges[-1] + width <= largest:
        edges.append(edges[-1] + width)
        width *= 2
    return edges
