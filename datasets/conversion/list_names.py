"""The names that a `.lst` file gives to the images of a record file, checked before anything is written by them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from datasets.faces.paths import PathTable
from datasets.records.dataset import RecordDataset
from datasets.records.format import RecordError
from datasets.records.index import is_number

_MAX_LINE_BYTES = 2**16
_MAX_DIGITS = 18
_REMEDY = "name them by label instead"


def listed_names(dataset: RecordDataset) -> PathTable:
    """Return `<identity>/<image>` of each image of a record file from its `.lst`, without the suffix.

    Both forms of the list are read: `flag<TAB>path<TAB>label`, line n for key n (n - 1 where the keys start at 0), and
    `key<TAB>label<TAB>...<TAB>path`.

    Raises:
        RecordError: naming the line where there is one, if there is no list, a key has no line, a path is not
            `<identity>/<image>` below the folder, an identity's images have several folders, or two names are one where
            case is ignored.
    """
    path = dataset.paths.record.with_suffix(".lst")
    keys: list[int] = []

    def stems() -> Iterator[str]:
        for key, stem in _lines(path, first=0 if dataset.keys[0] == 0 else 1):
            keys.append(key)
            yield stem

    table = PathTable(dataset.root, stems())
    listed = np.array([-1, *keys], np.int64)
    order = np.argsort(listed, kind="stable")
    places = np.searchsorted(listed[order], dataset.keys, side="right") - 1
    missing = listed[order][places] != dataset.keys
    if missing.any():
        raise RecordError(path, "", f"no line for key {dataset.keys[np.argmax(missing)]}; {_REMEDY}")
    table = table.take(order[places] - 1)
    _check_folders(path, table, dataset.labels)
    _check_images(path, table)
    return table


def _lines(path: Path, first: int) -> Iterator[tuple[int, str]]:
    """Yield key and checked name without suffix of every line that is not blank."""
    try:
        with path.open("rb") as stream:
            for number, line in enumerate(iter(lambda: stream.readline(_MAX_LINE_BYTES), b""), start=1):
                if not line.isspace():
                    key, name = _key_and_name(line.rstrip(b"\r\n").split(b"\t"), number - 1 + first)
                    yield key, _stem(path, number, os.fsdecode(name))
    except OSError as error:
        raise RecordError(path, "", f"cannot be opened ({error.strerror}); {_REMEDY}") from error


def _key_and_name(fields: list[bytes], key_of_line: int) -> tuple[int, bytes]:
    # Three fields with a number in the second are mxnet's form, with one in the third InsightFace's.
    if len(fields) == 3 and not is_number(fields[1]):
        return key_of_line, fields[1]
    key = fields[0].strip()
    is_key = len(fields) >= 3 and key.isdigit() and len(key) <= _MAX_DIGITS
    return (int(key), fields[-1]) if is_key else (key_of_line, b"")


def _stem(path: Path, number: int, name: str) -> str:
    """Return a name without its suffix, refusing whatever is not a visible file in a visible folder."""
    parts = name.split("/")
    plain = all(part and _is_plain(part) and not part.startswith(".") and "\\" not in part for part in parts)
    if len(parts) != 2 or not plain:
        reason = f"expected the path <identity>/<image>, got {name[:80]!r}; {_REMEDY}"
        raise RecordError(path, f"line {number}", reason)
    return os.path.splitext(name)[0]  # noqa: PTH122


def _is_plain(part: str) -> bool:
    # A name that is not UTF-8 is one too; Python keeps its bytes as these.
    return all(c.isprintable() or "\udc80" <= c <= "\udcff" for c in part)


def _check_folders(path: Path, table: PathTable, labels: NDArray[np.int64]) -> None:
    """Refuse identities with several folders, and folders that are one where case is ignored."""
    folder_of: dict[int, str] = {}
    label_of: dict[str, tuple[int, str]] = {}
    for index, label in enumerate(labels.tolist()):
        folder = table.relative(index).split("/")[0]
        if folder_of.setdefault(label, folder) != folder:
            reason = f"images of one identity in the folders {folder_of[label]!r} and {folder!r}; {_REMEDY}"
            raise RecordError(path, "", reason)
        other, name = label_of.setdefault(folder.casefold(), (label, folder))
        if other != label:
            how = "are the same" if name == folder else "differ by case only"
            raise RecordError(path, "", f"the folders {name!r} and {folder!r} of two identities {how}; {_REMEDY}")


def _check_images(path: Path, table: PathTable) -> None:
    """Refuse images whose files would have one name where case is ignored."""
    # Hashes, because millions of names need gigabytes.
    hashes = np.fromiter((hash(table.relative(index).casefold()) for index in range(len(table))), np.int64, len(table))
    order = np.argsort(hashes, kind="stable")
    for place in np.flatnonzero(hashes[order][1:] == hashes[order][:-1]).tolist():
        first, second = (table.relative(int(index)) for index in order[place : place + 2])
        if first.casefold() == second.casefold():
            raise RecordError(path, "", f"the images {first!r} and {second!r} would have one name; {_REMEDY}")
