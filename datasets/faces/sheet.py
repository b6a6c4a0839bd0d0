"""Sheets of small pictures with captions, for people to look at."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from datasets.sample import Image
from system.files import atomic_write
from system.terminal import printable
from transforms.landmarks import IMAGE_SIZE

COLUMNS = 12
INK = (40, 40, 40)

_GUTTER, _CAPTION, _TITLE = 6, 16, 26
_CAPTION_LENGTH = 17


class Cell(NamedTuple):
    """A picture uint8 [112, 112, 3] RGB, and the line below it, of which the end is shown."""

    image: Image
    caption: str


def draw_row(title: str, cells: list[Cell]) -> Image:
    """Return a row of at most COLUMNS pictures under a title as uint8 [H, W, 3] BGR, W the same for every row."""
    above = _TITLE if title else 0
    step = IMAGE_SIZE + _GUTTER
    canvas = np.full((above + IMAGE_SIZE + _CAPTION, _GUTTER + COLUMNS * step, 3), 255, np.uint8)
    if title:
        put_text(canvas, title, (_GUTTER, _TITLE - 8), 0.45)
    for place, cell in enumerate(cells):
        left = _GUTTER + place * step
        canvas[above : above + IMAGE_SIZE, left : left + IMAGE_SIZE] = cv2.cvtColor(cell.image, cv2.COLOR_RGB2BGR)
        put_text(canvas, cell.caption[-_CAPTION_LENGTH:], (left, canvas.shape[0] - 5))
    return canvas


def put_text(canvas: Image, text: str, place: tuple[int, int], size: float = 0.34) -> None:
    """Write a line into a picture; what OpenCV has no letter for is a question mark."""
    plain = printable(text).encode("ascii", "replace").decode()
    cv2.putText(canvas, plain, place, cv2.FONT_HERSHEY_SIMPLEX, size, INK, 1, cv2.LINE_AA)


def write_picture(file: Path, canvas: Image) -> None:
    """Write a picture uint8 [H, W, 3] BGR as PNG."""
    done, data = cv2.imencode(".png", canvas)
    assert done, canvas.shape
    with atomic_write(file, "wb") as stream:
        stream.write(data.tobytes())
