"""The images of a data set by the names that lists give them."""

from __future__ import annotations

import os
import posixpath
import unicodedata
from collections.abc import Hashable, Iterable, Iterator
from functools import cached_property
from typing import NamedTuple, TypeVar

from datasets.faces.image_kinds import KNOWN_SUFFIXES
from datasets.sample import FaceDataset

Key = TypeVar("Key", bound=Hashable)

_LISTED_SUFFIXES = KNOWN_SUFFIXES | {".heic", ".heif", ".jpg_large"}


class _Index(NamedTuple):
    """Positions by key, and the keys that several images have."""

    first: dict
    more: dict


class ListedImages:
    """Finds images by path, or by the name of their identity and a number.

    Indices are made at the first use: a data set may have millions of images, and a list one form.
    """

    def __init__(self, dataset: FaceDataset) -> None:
        self._paths = dataset.paths

    def at(self, path: str) -> int:
        """Return the position of the image at a path relative to the root, or absolute below it.

        Back slashes separate folders too, and where there is no such file the suffix may be missing or another;
        then upper and lower case, and how accents are encoded, need not agree.

        Raises:
            ValueError: if there is none, several images have it as their stem, or it lies outside the root.
        """
        if path in self._by_path:
            return self._by_path[path]
        root = self._paths.root
        for name in (path, path.replace("\\", "/")):
            # What climbs out of the root is not even looked for.
            relative = posixpath.normpath(posixpath.relpath(name, root) if posixpath.isabs(name) else name)
            if relative.split("/")[0] == "..":
                raise ValueError(f"{path[:200]!r} lies outside {root}; give paths below it")
            if relative in self._by_path:
                return self._by_path[relative]
        stem, suffix = posixpath.splitext(relative)
        keys = (relative, *([stem] if suffix.lower() in _LISTED_SUFFIXES else []))
        for index, key in [*((self._by_stem, key) for key in keys), *((self._by_look, _look(key)) for key in keys)]:
            if key in index.first:
                return self._only(index, key, path[:200])
        raise ValueError(f"no image {path[:200]!r} in {root}")

    def numbered(self, name: str, number: int) -> int:
        """Return the position of image `number` of an identity: `<name>/<name>_<number>.*` or `<name>/<number>.*`.

        The number may have any zeros before it. Where there is no such name, upper and lower case, and how accents are
        encoded, need not agree.

        Raises:
            ValueError: if there is none, or there are several.
        """
        for index, key in ((self._by_number, (name, number)), (self._by_number_and_look, (_look(name), number))):
            if key in index.first:
                return self._only(index, key, f"image {number} of {name[:200]!r}")
        raise ValueError(
            f"no image {number} of {name[:200]!r}: neither {name[:200]}/{name[:200]}_{number:04d}.* nor "
            f"{name[:200]}/{number}.*, with any number of zeros"
        )

    def _only(self, index: _Index, key: Hashable, described: str) -> int:
        if key in index.more:
            names = " and ".join(self._paths.relative(position) for position in index.more[key][:2])
            raise ValueError(f"{described} is ambiguous: {names}; name the file, or remove one of them")
        return index.first[key]

    @cached_property
    def _by_path(self) -> dict[str, int]:
        return {self._paths.relative(position): position for position in range(len(self._paths))}

    @cached_property
    def _by_stem(self) -> _Index:
        return _index((stem_of(name), position) for name, position in self._by_path.items())

    @cached_property
    def _by_look(self) -> _Index:
        return _index((_look(stem_of(name)), position) for name, position in self._by_path.items())

    @cached_property
    def _by_number(self) -> _Index:
        return _index(self._numbers())

    @cached_property
    def _by_number_and_look(self) -> _Index:
        return _index(((_look(folder), number), position) for (folder, number), position in self._numbers())

    def _numbers(self) -> Iterator[tuple[tuple[str, int], int]]:
        """Yield the identity and the number of each image that has one, with its position."""
        for position in range(len(self._paths)):
            folder, _, file = stem_of(self._paths.relative(position)).rpartition("/")
            digits = file.removeprefix(f"{folder}_")
            if digits.isdecimal() and len(digits) < 10:
                yield (folder, int(digits)), position


def stem_of(name: str) -> str:
    """Return a path without its suffix, which has a letter: photo.1 is no photo of the suffix 1."""
    stem, suffix = os.path.splitext(name)  # noqa: PTH122
    return stem if suffix[1:2].isalpha() else name


def _look(name: str) -> str:
    """Return what a name has in common with those that a system takes, or people take, for the same."""
    return unicodedata.normalize("NFC", name.casefold())


def _index(entries: Iterable[tuple[Key, int]]) -> _Index:
    first: dict[Key, int] = {}
    more: dict[Key, list[int]] = {}
    for key, position in entries:
        other = first.setdefault(key, position)
        if other != position:
            more.setdefault(key, [other]).append(position)
    return _Index(first, more)
