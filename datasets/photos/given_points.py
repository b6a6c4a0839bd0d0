"""Five points of each photograph from a table of the user's, in place of a detector's."""

from __future__ import annotations

import csv
import hashlib
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from datasets.photos.detection import Array
from datasets.text_file import read_text

_NUMBERED = ["idx", *(f"ldmk_{number}" for number in range(10))]
_NUMBERS = 10
_FORMS = "path and ten numbers (x and y of five points in pixels), or CVLface's idx,ldmk_0,...,ldmk_9"
# What a fraction of a side may be of points that lie beyond the border.
_MAX_FRACTION = 4.0
NAMED = "points of"  # how names of tables begin


class GivenPoints:
    """Points of photographs, read from a file once.

    Two forms are known. `path,x1,y1,...,x5,y5`: a path as the photograph is listed, relative to the folder, and pixels
    of the photograph as it is shown, with or without a heading, between commas, semicolons or tabs. And CVLface's
    `ldmk_5points.csv`: the place of the image in the set from 0, and fractions of its width and height.

    Args:
        path: the file.
    Attributes:
        name: of the file with its checksum, for the record.
        is_numbered: whether it is CVLface's form.
    Raises:
        ValueError: naming file and line, if it is no such file.
    """

    def __init__(self, path: Path) -> None:
        text = read_text(path, "points")
        digest = hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()
        self.name = f"{NAMED} {path.name} (sha256 {digest[:8]})"
        self.path = path
        rows = _rows(path, text)
        heading = next(rows, None)
        if heading is None:
            raise ValueError(f"{path}: holds no points; expected {_FORMS}")
        self.is_numbered = [word.strip() for word in heading[1]] == _NUMBERED
        self._points: dict[str, Array] = {}
        if not self.is_numbered and not _is_heading(heading[1]):
            self._add(*heading)
        for number, words in rows:
            self._add(number, words)

    def __len__(self) -> int:
        return len(self._points)

    def check_count(self, num_photos: int) -> None:
        """Refuse a file by places in a set that has not the photographs of the source.

        Raises:
            ValueError: if it has more or fewer lines than there are photographs.
        """
        if self.is_numbered and len(self) != num_photos:
            raise ValueError(
                f"{self.path}: has points of {len(self)} images, but there are {num_photos}; idx is an image's place in"
                " its set, so both must be of one set"
            )

    def of(self, name: str, place: int, shape: tuple[int, ...]) -> Array | None:
        """Return the points [5, 2] of a photograph in its pixels, or None where there are none.

        Args:
            name: as it is listed, with forward slashes.
            place: among all photographs, from 0.
            shape: [height, width, ...] of the photograph.
        """
        if not self.is_numbered:
            return self._points.get(_plain(name))
        points = self._points.get(str(place))
        return None if points is None else points * [shape[1], shape[0]]

    def _add(self, number: int, words: list[str]) -> None:
        place = f"{self.path}, line {number}"
        if len(words) != _NUMBERS + 1:
            raise ValueError(f"{place}: {len(words)} columns; expected {_FORMS}")
        try:
            points = np.array([float(word) for word in words[1:]]).reshape(5, 2)
        except ValueError as error:
            raise ValueError(f"{place}: ten numbers expected after the first column") from error
        if not np.isfinite(points).all() or np.abs(points).max() > 1e6:
            raise ValueError(f"{place}: a number is not finite, or larger than any photograph")
        if self.is_numbered and np.abs(points).max() > _MAX_FRACTION:
            raise ValueError(f"{place}: fractions of width and height expected; give pixels as path and ten numbers")
        key = self._key(words[0], place)
        if key in self._points:
            raise ValueError(f"{place}: {words[0][:200]!r} has points on an earlier line; leave one face for each")
        self._points[key] = points

    def _key(self, word: str, place: str) -> str:
        if not self.is_numbered:
            return _plain(word)
        if not re.fullmatch(r"\d{1,12}", word.strip(), re.ASCII):
            raise ValueError(f"{place}: idx must be a whole number, got {word[:40]!r}")
        return str(int(word))


def _rows(path: Path, text: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the lines that are not blank with their numbers, cut into words."""
    separator = max(",;\t", key=text.partition("\n")[0].count)
    reader = csv.reader(text.splitlines(keepends=True), delimiter=separator)
    try:
        for words in reader:
            if any(word.strip() for word in words):
                yield reader.line_num, words
    except csv.Error as error:
        raise ValueError(f"{path}, line {reader.line_num}: {error}") from error


def _is_heading(words: list[str]) -> bool:
    return len(words) == _NUMBERS + 1 and not any(re.search(r"^\s*[-+.]?\d", word) for word in words[1:])


def _plain(name: str) -> str:
    return posixpath.normpath(name.strip().replace("\\", "/"))
