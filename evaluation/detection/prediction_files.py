"""Detections in the files of WIDER FACE's evaluation: a folder for each event, a text file for each image."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from evaluation.detection.boxes import Floats, check_boxes
from system.files import write_text

_NUMBERS = 5
_MAX_BYTES = 2**26  # a million detections
_ENDING = re.compile(r"\.(jpe?g|png|txt)$", re.IGNORECASE)


def read_predictions(path: Path) -> Floats:
    """Return the detections of an image, float64 [M, 5]: x, y, width, height in pixels and score, in the file's order.

    The file has the image's name, the number of detections, and a line for each.

    Raises:
        ValueError: naming file and line, if it cannot be read or is cut off, the name is of another image, or a line
            is no five finite numbers.
    """
    lines = _lines(path)
    if len(lines) < 2:
        raise ValueError(f"{path}: cut off: a name and the number of detections are needed")
    named = _ENDING.sub("", lines[0].strip().replace("\\", "/").rsplit("/", 1)[-1])
    if path.stem.strip() not in (named.strip(), lines[0].strip()):
        raise ValueError(f"{path}, line 1: the detections of {named[:80]!r}, by the name of the file of another image")
    if not re.fullmatch(r"\d{1,7}", lines[1].strip(), re.ASCII):
        raise ValueError(f"{path}, line 2: the number of detections expected, got {lines[1][:40]!r}")
    rows = lines[2:]
    while rows and not rows[-1].strip():
        rows.pop()
    if len(rows) != int(lines[1]):
        raise ValueError(f"{path}, line 2: {int(lines[1])} detections promised, {len(rows)} lines follow; cut off?")
    return _numbers(path, rows)


def write_predictions(folder: Path, name: str, boxes: ArrayLike, scores: ArrayLike) -> Path:
    """Write the detections of an image as `<folder>/<name>.txt`, by falling score, and return the file.

    Coordinates stay what they are: the detectors that the format comes from cut them to integers, which costs recall
    on small faces.

    Args:
        folder: of all events.
        name: `<event>/<image>`, without an ending.
        boxes: [M, 4], x1 y1 x2 y2 in pixels.
        scores: [M].
    Raises:
        ValueError: if shapes disagree, a number is not finite, or the name leads out of the folder.
        OSError: if it cannot be written.
    """
    array = check_boxes("write_predictions", boxes)
    certainty = np.asarray(scores, np.float64)
    if certainty.shape != (len(array),) or not np.isfinite(certainty).all():
        raise ValueError(f"write_predictions: {len(array)} finite scores expected, got {list(certainty.shape)}")
    if not is_plain(name):
        raise ValueError(f"write_predictions: {name!r} is no name of an image below a folder")
    rows = np.column_stack([array[:, :2], array[:, 2:] - array[:, :2], certainty])[
        np.argsort(-certainty, kind="stable")
    ]
    path = folder / f"{name}.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [path.stem, str(len(rows)), *(" ".join(f"{value:.9g}" for value in row) for row in rows.tolist())]
    write_text(path, "\n".join(lines) + "\n")
    return path


def is_plain(name: str) -> bool:
    """Return whether a name leads to a visible file below a folder, and nowhere else, and is one line of UTF-8."""
    # Bytes of a name that are no UTF-8 are lone surrogates in Python.
    if any(sign in "\\\0\n\r" or "\ud800" <= sign <= "\udfff" for sign in name):
        return False
    return all(part and not part.startswith(".") for part in name.split("/"))


def _lines(path: Path) -> list[str]:
    try:
        if path.is_file() and path.stat().st_size > _MAX_BYTES:
            raise ValueError(f"{path}: larger than {_MAX_BYTES} bytes, more than detections of one image need")
        return path.read_text(encoding="utf-8", errors="replace").removesuffix("\n").split("\n")
    except FileNotFoundError as error:
        raise ValueError(f"{path}: no detections of this image; one without any needs a file that says 0") from error
    except OSError as error:
        raise ValueError(f"{path}: cannot read the detections ({error.strerror})") from error


def _numbers(path: Path, rows: list[str]) -> Floats:
    try:
        array = np.array([[float(word) for word in row.split()] for row in rows]).reshape(-1, _NUMBERS)
    except ValueError:
        array = np.empty((0, _NUMBERS))
    if len(array) == len(rows) and np.isfinite(array).all():
        return array
    bad = next(number for number, row in enumerate(rows) if not _is_sound(row))
    raise ValueError(f"{path}, line {bad + 3}: x y width height score expected, got {rows[bad][:60]!r}")


def _is_sound(row: str) -> bool:
    try:
        return np.isfinite([float(word) for word in row.split()]).sum() == _NUMBERS == len(row.split())
    except ValueError:
        return False
