"""A sheet of the photographs whose alignment is doubtful: each one with what was found in it, and its crop."""

from __future__ import annotations

import heapq
from pathlib import Path

import cv2
import numpy as np

from datasets.faces.images import UnreadableImageError, decode_image
from datasets.faces.sheet import COLUMNS, Cell, draw_row, write_picture
from datasets.photos.aligned import ALIGNED, GIVEN, LOOKS, UNREADABLE
from datasets.photos.sources import Photographs
from datasets.photos.table import read_rows
from datasets.sample import Image
from transforms.landmarks import IMAGE_SIZE

MOST = 60  # photographs on a sheet
# Of photographs of LFW one in a hundred has more, see docs/alignment.md.
DOUBTFUL_RESIDUAL = 7.0
DOUBTFUL_INSIDE = 0.6

_MARK = (0, 114, 178)  # the blue of Okabe and Ito, RGB
_TITLE = "doubtful: the photograph with what was found in it, and its crop; alignment.csv says more"
_USUAL = (LOOKS[0].name, GIVEN)


def why_doubtful(row: dict[str, str]) -> tuple[int, str]:
    """Return how doubtful a row of the table is, 0 not at all, and why in a few words."""
    if row["status"] == UNREADABLE:
        return 0, ""  # there is nothing to look at
    if row["status"] != ALIGNED:
        return 5, row["status"]
    if row["look"] not in _USUAL:
        return 4, row["look"]
    if float(row["residual"]) > DOUBTFUL_RESIDUAL:
        return 3, f"residual {float(row['residual']):.1f}"
    if float(row["inside"]) < DOUBTFUL_INSIDE:
        return 2, f"{float(row['inside']):.0%} inside"
    return (1, f"{row['faces']} faces") if row["faces"] != "1" else (0, "")


def write_sheet(file: Path, table: Path, photographs: Photographs, crops: Path) -> bool:
    """Draw the most doubtful photographs of a table beside their crops; return whether there are any.

    Args:
        file: PNG to write.
        table: alignment.csv of these photographs.
        crops: folder of the crops.
    """
    ranked = ((why_doubtful(row)[0], -place, row) for place, row in enumerate(read_rows(table)))
    worst = heapq.nlargest(MOST, (one for one in ranked if one[0]), key=lambda one: one[:2])
    cells = [cell for _, place, row in worst for cell in _cells(photographs, -place, row, crops)]
    if not cells:
        return False
    starts = range(0, len(cells), COLUMNS)
    rows = [draw_row(_TITLE if start == 0 else "", cells[start : start + COLUMNS]) for start in starts]
    write_picture(file, np.concatenate(rows))
    return True


def _cells(photographs: Photographs, place: int, row: dict[str, str], crops: Path) -> list[Cell]:
    task = next(photographs.tasks(place, place + 1))
    payload = next(iter(task.portion.read()))
    try:
        image = decode_image(payload.data, payload.location)
        crop = decode_image((crops / row["crop"]).read_bytes(), row["crop"]) if row["crop"] else None
    except (UnreadableImageError, OSError):
        return []  # it was readable a moment ago: somebody is at work on the files
    blank = np.full((IMAGE_SIZE, IMAGE_SIZE, 3), 225, np.uint8)
    shown = blank if crop is None else np.asarray(cv2.resize(crop, (IMAGE_SIZE, IMAGE_SIZE)), np.uint8)
    return [Cell(_marked(image, row), row["path"]), Cell(shown, why_doubtful(row)[1])]


def _marked(image: Image, row: dict[str, str]) -> Image:
    """Return a photograph in a square of 112 pixels, with box and points."""
    height, width = image.shape[:2]
    ratio = IMAGE_SIZE / max(height, width)
    sides = (max(1, round(width * ratio)), max(1, round(height * ratio)))
    canvas = np.full((IMAGE_SIZE, IMAGE_SIZE, 3), 225, np.uint8)
    canvas[: sides[1], : sides[0]] = cv2.resize(image, sides, interpolation=cv2.INTER_AREA)
    if row["x1"]:
        x1, y1, x2, y2 = (round(float(row[f"box_{name}"]) * ratio) for name in ("x1", "y1", "x2", "y2"))
        cv2.rectangle(canvas, (x1, y1), (x2, y2), _MARK, 1)
        for number in range(1, 6):
            at = (round(float(row[f"x{number}"]) * ratio), round(float(row[f"y{number}"]) * ratio))
            cv2.circle(canvas, at, 1, _MARK, cv2.FILLED)
    return canvas
