"""Which photographs there are: of a folder and the folders in it, of a list, of a record file, or one."""

from __future__ import annotations

import hashlib
import os
import posixpath
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from datasets.conversion.to_folder import numbered_names
from datasets.faces.folder_scan import LeftOut
from datasets.faces.image_kinds import HEAD_BYTES, KNOWN_SUFFIXES, NO_IMAGE, suffix_of, why_left_out
from datasets.faces.paths import PathTable, open_regular
from datasets.payloads import FilePortion, Portion, RecordPortion
from datasets.records.dataset import RecordDataset
from datasets.text_file import read_text

# So few that every process has some, and that little is lost when one is killed.
_PORTION = 8


class Task(NamedTuple):
    """Some photographs that travel to another process, with their names and the place of the first among all."""

    portion: Portion
    names: list[str]
    place: int


class Photographs:
    """The photographs of a source, in a fixed order.

    Args:
        source: a folder, a text file with a path a line, a record file or its folder, a photograph, or the paths
            themselves.
    Attributes:
        names: of the photographs, relative to `names.root` with forward slashes; of records `<identity>/<key>`.
        left_out: files of a folder that are no photographs, by suffix and reason. A video, and what is damaged, counts
            as a photograph that cannot be read: it is asked for.
        is_single: whether the source is one photograph.
    Raises:
        ValueError: if there is none, a list names a file twice or one that is not there, or the records are damaged.
    """

    def __init__(self, source: Path | PathTable) -> None:
        self.left_out = LeftOut()
        self.is_single = False
        self._records: RecordDataset | None = None
        if isinstance(source, PathTable):
            self.names = source
        elif source.is_dir() and not any(source.glob("*.rec")):
            self.names = PathTable(source, self._in_folder(source))
            if not len(self.names):
                raise ValueError(f"{source}: no photograph in it or below it" + _left_out(self.left_out))
        elif source.is_dir() or source.suffix == ".rec":
            self._records = RecordDataset(source)
            self.names = numbered_names(self._records)
        elif not source.exists():
            raise ValueError(f"{source} does not exist")
        elif _is_photograph(source):
            self.is_single = True
            self.names = PathTable(source.parent, [source.name])
        else:
            self.names = _listed(source)

    def __len__(self) -> int:
        return len(self.names)

    def tasks(self, start: int = 0, stop: int | None = None) -> Iterator[Task]:
        """Yield the photographs from a place on, a few at a time."""
        end = len(self) if stop is None else stop
        for first in range(start, end, _PORTION):
            places = range(first, min(first + _PORTION, end))
            names = [self.names.relative(place) for place in places]
            if self._records is None:
                yield Task(FilePortion(self.names.root, names), names, first)
            else:
                offsets = self._records.offsets[places.start : places.stop].tolist()
                yield Task(RecordPortion(self._records.paths.record, offsets), names, first)

    def crop_names(self) -> Iterator[str]:
        """Yield the path of each crop: the photograph's with the suffix .png, after its own where two would be one."""
        names = [self.names.relative(place) for place in range(len(self))]
        return (f"{name}.png" for name in (names if self._records is not None else without_suffix(names)))

    def state(self) -> str:
        """Return hex digits that change when a photograph changes by name, size or time."""
        digest = hashlib.sha256(b"" if self._records is None else self._records.decoding.encode())
        for place in range(len(self)):
            name = self.names.relative(place)
            digest.update(os.fsencode(f"{name}\0{_file_state(f'{self.names.root}/{name}')}\0"))
        return digest.hexdigest()

    def _in_folder(self, root: Path) -> list[str]:
        names = []
        for folder, inner, files in os.walk(root):
            inner[:] = sorted(name for name in inner if not name.startswith("."))
            for name in sorted(files):
                path = os.path.join(folder, name)  # noqa: PTH118  # many of them
                if not name.startswith(".") and self._is_wanted(path):
                    names.append(posixpath.relpath(path.replace(os.sep, "/"), root.as_posix()))
        return sorted(names)

    def _is_wanted(self, path: str) -> bool:
        suffix = posixpath.splitext(path)[1].lower()
        if suffix in KNOWN_SUFFIXES:
            return True
        try:
            with open_regular(path) as stream:
                reason = why_left_out(stream.read(HEAD_BYTES))
            is_meant = reason not in (NO_IMAGE, "empty")
        except OSError as error:
            reason, is_meant = error.strerror or NO_IMAGE, False
        if not is_meant:
            self.left_out[suffix[:16], reason] += 1
        return is_meant


def without_suffix(names: Sequence[str]) -> Iterator[str]:
    """Yield the names of files without their suffixes; with them where two would be one."""
    # Two names that differ by case only are one on some systems.
    stems = Counter(posixpath.splitext(name)[0].casefold() for name in names)
    whole = {name.casefold() for name in names}
    for name in names:
        stem = posixpath.splitext(name)[0]
        yield stem if stems[stem.casefold()] == 1 and stem.casefold() not in whole else name


def _listed(source: Path) -> PathTable:
    """Return the files that a list names, relative to the folder that they have in common."""
    found: dict[str, int] = {}
    for number, line in enumerate(read_text(source, "photographs").splitlines(), start=1):
        if not line.strip():
            continue
        # Not resolved: a link keeps its own name.
        path = os.path.abspath(source.parent / line.strip())  # noqa: PTH100
        if not os.path.isfile(path):  # noqa: PTH113
            raise ValueError(f"{source}, line {number}: no file {line.strip()[:200]!r}; give a path a line")
        if path in found:
            raise ValueError(f"{source}, line {number}: {line.strip()[:200]!r} is on line {found[path]} already")
        found[path] = number
    if not found:
        raise ValueError(f"{source}: lists no photograph; give a path a line")
    root = Path(os.path.commonpath([os.path.dirname(path) for path in found]))  # noqa: PTH120
    return PathTable(root, (Path(path).relative_to(root).as_posix() for path in found))


def _is_photograph(path: Path) -> bool:
    """Return whether a file is meant as one photograph: by its suffix, or by what it begins with."""
    if path.suffix.lower() in KNOWN_SUFFIXES:
        return True
    with open_regular(path) as stream:
        head = stream.read(HEAD_BYTES)
    return bool(suffix_of(head)) or why_left_out(head) not in (NO_IMAGE, "empty")


def _left_out(left_out: LeftOut) -> str:
    return f"; {left_out}" if left_out else ""


def _file_state(file: str) -> str:
    try:
        status = os.stat(file)  # noqa: PTH116  # asked for millions of files
    except OSError:
        return "missing"
    return f"{status.st_size} {status.st_mtime_ns}"
