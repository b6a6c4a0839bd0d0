"""Pair lists of the user's own: LFW's pairs.txt and CSV."""

from __future__ import annotations

import csv
import os
import posixpath
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from datasets.pairs import Pairs
from datasets.sample import FaceDataset

_ANSWERS = {"1": True, "true": True, "0": False, "false": False}
_LFW_FORMS = "'name n1 n2' or 'name1 n1 name2 n2'"

Pair = tuple[int, int, bool]
Lines = list[tuple[int, str]]


def read_pairs(path: str | os.PathLike[str], dataset: FaceDataset) -> Pairs:
    """Read a list of pairs of images of a data set.

    LFW's form has a line `name n1 n2` for a genuine pair and `name1 n1 name2 n2` for an impostor pair, separated by
    tabs or blanks. Image n of a name is `<name>/<name>_<n with 4 digits>.*`, else `<name>/<n>.*`. A first line
    `folds pairs` states the protocol: in each fold that many genuine and then as many impostor pairs; those folds are
    kept. A first line with one number states the genuine and then the impostor pairs of a single block.

    CSV has `path1,path2,label`, paths relative to the root of the data set, label 1 or true for the same identity, 0 or
    false otherwise; a first line whose label is neither is a heading.

    Raises:
        ValueError: naming the file and the line, if the file cannot be read, a line has another form, an image does not
            exist, lies outside the root, or is paired with itself, or the counts differ from the heading.
    """
    file = Path(path)
    lines = _lines(file)
    if not lines:
        raise ValueError(f"{file}: no pairs in it; expected CSV 'path1,path2,label' or lines {_LFW_FORMS}")
    folds = None
    if file.suffix.lower() == ".csv" or "," in lines[0][1]:
        pairs = list(_csv_pairs(file, lines, dataset))
    else:
        heading = lines[0][1].split()
        has_heading = len(heading) <= 2 and all(_is_number(word) for word in heading)
        pairs = list(_lfw_pairs(file, lines[has_heading:], dataset))
        if has_heading:
            folds = _lfw_folds(file, heading, len(pairs))
    if not pairs:
        raise ValueError(f"{file}: a heading without pairs")
    table = np.array(pairs, np.int64)
    return Pairs(table[:, 0], table[:, 1], table[:, 2].astype(bool), folds)


def _lines(file: Path) -> Lines:
    """Return the lines that are not blank, with their numbers from 1."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ValueError(f"{file}: cannot read the pairs ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{file}: not UTF-8 text at byte {error.start}; save the pairs as UTF-8") from error
    return [(number, line) for number, line in enumerate(text.splitlines(), start=1) if line.strip()]


def _csv_pairs(file: Path, lines: Lines, dataset: FaceDataset) -> Iterator[Pair]:
    positions = {dataset.paths.relative(index): index for index in range(len(dataset))}
    for position, (number, line) in enumerate(lines):
        place = f"{file}, line {number}"
        try:
            fields = [field.strip() for field in next(csv.reader([line]))]
        except csv.Error as error:
            raise ValueError(f"{place}: not a line of CSV ({error})") from error
        if len(fields) != 3:
            raise ValueError(f"{place}: expected path1,path2,label, got {line.strip()[:80]!r}")
        answer = _ANSWERS.get(fields[2].lower())
        if answer is None:
            if position == 0:
                continue
            raise ValueError(f"{place}: the label must be 1, true, 0 or false, got {fields[2]!r}")
        first, second = (_by_path(name, positions, dataset.paths.root, place) for name in fields[:2])
        yield _checked(first, second, answer, place)


def _by_path(name: str, positions: dict[str, int], root: Path, place: str) -> int:
    # Absolute paths below the root are taken too; what climbs out of it is not even looked for.
    relative = posixpath.normpath(posixpath.relpath(name, root) if posixpath.isabs(name) else name)
    if relative.split("/")[0] == "..":
        raise ValueError(f"{place}: {name!r} lies outside {root}; give paths below it")
    if relative not in positions:
        raise ValueError(f"{place}: no image {name!r} in {root}")
    return positions[relative]


def _lfw_pairs(file: Path, lines: Lines, dataset: FaceDataset) -> Iterator[Pair]:
    positions = {os.path.splitext(dataset.paths.relative(index))[0]: index for index in range(len(dataset))}  # noqa: PTH122
    for number, line in lines:
        place = f"{file}, line {number}"
        # Names with blanks are possible where tabs separate.
        words = [word.strip() for word in line.strip().split("\t" if "\t" in line.strip() else None)]
        if len(words) == 3:
            words.insert(2, words[0])
        if len(words) != 4 or not (_is_number(words[1]) and _is_number(words[3])):
            raise ValueError(f"{place}: expected {_LFW_FORMS}, got {line.strip()[:80]!r}")
        first = _by_number(words[0], int(words[1]), positions, place)
        second = _by_number(words[2], int(words[3]), positions, place)
        yield _checked(first, second, words[0] == words[2], place)


def _is_number(word: str) -> bool:
    # Of a length that int() takes; no folder has as many images.
    return word.isdecimal() and len(word) < 10


def _by_number(name: str, number: int, positions: dict[str, int], place: str) -> int:
    stems = (f"{name}/{name}_{number:04d}", f"{name}/{number}")
    for stem in stems:
        if stem in positions:
            return positions[stem]
    raise ValueError(f"{place}: no image {number} of {name!r}: neither {stems[0]}.* nor {stems[1]}.*")


def _checked(first: int, second: int, answer: bool, place: str) -> Pair:
    if first == second:
        raise ValueError(f"{place}: an image is paired with itself, which says nothing; remove the line")
    return first, second, answer


def _lfw_folds(file: Path, heading: list[str], num_pairs: int) -> np.ndarray | None:
    """Return the fold of each pair as the heading defines them; None for a single block."""
    blocks, each = (int(heading[0]), int(heading[1])) if len(heading) == 2 else (1, int(heading[0]))
    if blocks * each * 2 != num_pairs:
        raise ValueError(
            f"{file}: the heading promises {blocks} x {each} genuine and as many impostor pairs, "
            f"{blocks * each * 2} in all, the file has {num_pairs}"
        )
    return np.repeat(np.arange(blocks), 2 * each) if blocks > 1 else None
