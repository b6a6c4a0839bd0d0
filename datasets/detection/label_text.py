"""The text files that label WIDER FACE: the original, RetinaFace's label.txt, and labelv2."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from datasets.detection.labels import (
    LabeledPhoto,
    PhotoLabels,
    Row,
    Skipped,
    checked_name,
    finished,
    make_photo,
)
from datasets.text_file import read_text
from system.files import write_text
from transforms.detection.faces import FaceBoxes

Lines = list[tuple[int, str]]
_SIZED = re.compile(r"#\s*(.+?)\s+(\d{1,6})\s+(\d{1,6})", re.ASCII)
_POINTS = 15  # x, y and a flag, five times
_UNLABELED = -1.0
_ORIGINAL_COLUMNS = 10


def read_label_text(path: Path) -> PhotoLabels:
    """Read a file of labels in one of three forms, told by its first line.

    `label.txt` (RetinaFace): `# image`, then for each face `x y width height` in pixels, alone or with `x y flag` of
    five points and one number more, which is not used. A point whose flag is -1 is not labeled.

    `labelv2.txt` (SCRFD, YuNet): `# image width height`, then `x1 y1 x2 y2`, alone, with 1 for a face to ignore, or
    with five points as above.

    `wider_face_{train,val}_bbx_gt.txt` (the original): the image, the number of faces, and for each `x y width height
    blur expression illumination invalid occlusion pose`; an image with 0 faces has a line of zeros. Invalid faces are
    ignored.

    Images without faces stay. A face is left out, counted and said in a warning, if its box has no width or height or
    lies outside an image of known size, or a number is not finite.

    Raises:
        ValueError: naming file and line, if the file cannot be read, a line has another form, the file ends in the
            middle of a face or an image, an image comes twice, or there is none.
    """
    text = read_text(path, "labels")
    lines = [(number, line.strip()) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]
    if not lines:
        raise ValueError(f"{path}: holds no labels")
    first = lines[0][1]
    if not first.startswith("#"):
        photos = _original(path, lines)
    else:
        photos = _headed(path, lines, is_sized=_SIZED.fullmatch(first) is not None)
    skipped: list[Skipped] = []
    seen: dict[str, int] = {}
    found = []
    for number, name, size, rows in photos:
        plain = checked_name(name, f"{path}, line {number}")
        if plain in seen:
            raise ValueError(f"{path}, line {number}: {plain[:80]!r} is on line {seen[plain]} already")
        seen[plain] = number
        found.append(make_photo(plain, rows, size, skipped))
    return finished(PhotoLabels(path, found, skipped))


_Photo = tuple[int, str, tuple[int, int] | None, list[Row]]


def _headed(path: Path, lines: Lines, is_sized: bool) -> Iterator[_Photo]:
    """Yield the photographs of a file with a `#` before each."""
    read_row: Callable[[str, int, Sequence[float]], Row] = _corner_row if is_sized else _side_row
    photo: _Photo | None = None
    for number, line in lines:
        if line.startswith("#"):
            if photo is not None:
                yield photo
            photo = (number, *_heading(path, number, line, is_sized), [])
        elif photo is not None:
            photo[3].append(read_row(f"{path}, line {number}", number, _numbers(path, number, line)))
    if photo is not None:
        yield photo


def _heading(path: Path, number: int, line: str, is_sized: bool) -> tuple[str, tuple[int, int] | None]:
    if not is_sized:
        return line.lstrip("#"), None
    match = _SIZED.fullmatch(line)
    if match is None:
        raise ValueError(f"{path}, line {number}: '# image width height' expected, got {line[:80]!r}")
    return match[1], (int(match[2]), int(match[3]))


def _side_row(place: str, number: int, values: Sequence[float]) -> Row:
    if len(values) not in (4, 4 + _POINTS, 5 + _POINTS):
        raise ValueError(f"{place}: 4, 19 or 20 numbers of a face expected, got {len(values)}; cut off?")
    x, y, width, height = values[:4]
    return Row(number, (x, y, x + width, y + height), _points(place, values[4:19]))


def _corner_row(place: str, number: int, values: Sequence[float]) -> Row:
    if len(values) not in (4, 5, 4 + _POINTS, 5 + _POINTS):
        raise ValueError(f"{place}: 4, 5, 19 or 20 numbers of a face expected, got {len(values)}; cut off?")
    is_flag = len(values) == 5
    return Row(number, values[:4], None if is_flag else _points(place, values[4:19]), is_flag and values[4] == 1)


def _points(place: str, values: Sequence[float]) -> list[float] | None:
    """Return ten numbers, NaN where a point is not labeled, inf where it should be a number and is none."""
    if not values:
        return None
    triples = np.array(values).reshape(5, 3)
    points = np.where(np.isfinite(triples[:, :2]), triples[:, :2], np.inf)
    points[triples[:, 2] == _UNLABELED] = np.nan
    return points.ravel().tolist()


def _original(path: Path, lines: Lines) -> Iterator[_Photo]:
    """Yield the photographs of the original form."""
    place = 0
    while place < len(lines):
        number, name = lines[place]
        promised = lines[place + 1][1] if place + 1 < len(lines) else ""
        if not re.fullmatch(r"\d{1,6}", promised, re.ASCII):
            raise ValueError(
                f"{path}, line {number + 1}: the number of faces of {name[:80]!r} expected, got {promised[:40]!r}"
            )
        rows = lines[place + 2 : place + 2 + int(promised)]
        if len(rows) < int(promised):
            raise ValueError(
                f"{path}, line {number}: {promised} faces promised, {len(rows)} lines follow; the file is cut off"
            )
        place += 2 + len(rows)
        if not rows and place < len(lines) and set(lines[place][1].split()) == {"0"}:
            place += 1
        yield number, name, None, [_original_row(path, *row) for row in rows]


def _original_row(path: Path, number: int, line: str) -> Row:
    values = _numbers(path, number, line)
    if len(values) != _ORIGINAL_COLUMNS:
        raise ValueError(f"{path}, line {number}: {_ORIGINAL_COLUMNS} numbers of a face expected, got {len(values)}")
    x, y, width, height, blur, expression, illumination, invalid, occlusion, pose = values
    attributes = (blur, expression, illumination, occlusion, pose)
    if not all(0 <= value <= 2 for value in attributes):
        raise ValueError(f"{path}, line {number}: blur, expression and the like are 0, 1 or 2, got {line[:60]!r}")
    return Row(number, (x, y, x + width, y + height), None, invalid != 0, attributes)


def _numbers(path: Path, number: int, line: str) -> list[float]:
    try:
        return [float(word) for word in line.split()]
    except ValueError as error:
        raise ValueError(f"{path}, line {number}: numbers of a face expected, got {line[:60]!r}") from error


def write_label_txt(path: Path, photos: Sequence[LabeledPhoto]) -> None:
    """Write photographs in the form of RetinaFace's label.txt; what it has no place for is lost (flags, shares).

    Raises:
        OSError: if it cannot be written.
    """
    lines = [line for photo in photos for line in (f"# {photo.name}", *map(" ".join, _text_rows(photo.faces)))]
    write_text(path, "\n".join(lines) + "\n")


def _text_rows(faces: FaceBoxes) -> Iterator[list[str]]:
    for box, points in zip(faces.boxes.astype(np.float64), faces.points.astype(np.float64), strict=True):
        sides = [box[0], box[1], box[2] - box[0], box[3] - box[1]]
        triples = [
            word
            for x, y in points.tolist()
            for word in (["-1.0"] * 3 if np.isnan(x) else [f"{x:.3f}", f"{y:.3f}", "0.0"])
        ]
        yield [*(f"{value:.3f}" for value in sides), *triples, "1.0"]
