"""Pair lists of the user's own: LFW's pairs.txt, Kaggle's CSVs of it, and lists of paths with labels."""

from __future__ import annotations

import csv
import itertools
import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from datasets.benchmarks.pairs import Pairs
from datasets.counted import counted
from datasets.faces.listed_images import ListedImages
from datasets.sample import FaceDataset
from datasets.text_file import read_text

logger = logging.getLogger(__name__)

_ANSWERS = {"1": True, "true": True, "1.0": True, "0": False, "false": False, "0.0": False}
_FORMS = "'path1 path2 label', 'name n1 n2' or 'name1 n1 name2 n2'"
_SEPARATORS = "\t;,"
# Names with blanks are put together from so many words at most.
_MAX_WORDS = 16
# A first line of such words alone names the columns; numbers behind them do not count.
_HEADING_WORDS = frozenset(
    """a anchor answer b class face filename file first fold folder gallery genuine gt id identity image imagenum img
    index is issame label left match matched n name num number of pair path person photo picture probe query reference
    right same second subject target truth unnamed y""".split()
)

Pair = tuple[int, int, bool]
Lines = list[tuple[int, str]]
Table = NDArray[np.int64]  # [N, 4]: first, second, issame, line


def read_pairs(path: str | os.PathLike[str], dataset: FaceDataset) -> Pairs:
    """Read a list of pairs of images of a data set.

    A line is `path1 path2 label`, or `label path1 path2`, with label 1 or true for the same identity, 0 or false
    otherwise; or LFW's `name n1 n2` for a genuine and `name1 n1 name2 n2` for an impostor pair. Fields are separated by
    tabs, semicolons, commas or blanks and may be quoted; blank columns at the end, blank lines and comments after `#`
    are passed over. `ListedImages` says which images paths and numbers name.

    A running number before `path1 path2 label` is passed over.

    A first line of words like `path1,path2,label` is a heading. A first line `folds pairs` states LFW's protocol: in
    each fold that many genuine and as many impostor pairs; those folds are kept. A first line with one number states
    the genuine and then the impostor pairs of a single block.

    A pair that comes again with the same label counts once, except under a heading, which counts lines; where the list
    contradicts the folders, it decides. Both are said in a warning.

    Raises:
        ValueError: naming the file and the line, if the file cannot be read, a line has another form, an image does not
            exist, is ambiguous, lies outside the root, or is paired with itself, a pair has both labels, or the counts
            differ from the heading.
    """
    file = Path(path)
    lines = _lines(file)
    if not lines:
        raise ValueError(f"{file}: no pairs in it; expected lines {_FORMS}")
    heading = _numbers(lines[0][1])
    has_heading = bool(heading) or _is_heading(lines[0][1])
    images = ListedImages(dataset)
    rows = [(*pair, number) for number, line in lines[has_heading:] for pair in _read_line(file, number, line, images)]
    if not rows:
        raise ValueError(f"{file}: a heading without pairs")
    table = np.array(rows, np.int64)
    folds = _folds(file, heading, table) if heading else None
    repeated = _find_repeated(file, table)
    _warn_of_folders(file, table, dataset)
    if repeated.size:
        what = "all stay, because the heading counts them" if heading else "each pair counts once"
        before, line = repeated[0].tolist()
        count = counted(len(repeated), "repetition")
        logger.warning(
            "%s: %s of a pair that came before; %s. The first: line %d, as %d", file, count, what, line, before
        )
    if not heading:
        table = table[~np.isin(table[:, 3], repeated[:, 1])]
    return Pairs(table[:, 0], table[:, 1], table[:, 2].astype(bool), folds)


def _lines(file: Path) -> Lines:
    """Return the lines that are not blank, with their numbers from 1; without what Excel writes of its separator."""
    # Not splitlines: the rarer ends that it knows may be in names.
    lines = re.split(r"\r\n|\r|\n", read_text(file, "pairs"))
    found = [(number, line) for number, line in enumerate(lines, start=1) if line.strip()]
    return found[1:] if found and re.fullmatch(r'"?sep=.?"?\s*', found[0][1]) else found


def _numbers(line: str) -> list[int]:
    """Return the one or two numbers of LFW's heading; empty for any other line."""
    words = re.split(r"[\s;,]+", line.strip(" \t;,"))
    return [int(word) for word in words] if len(words) <= 2 and all(map(_is_number, words)) else []


def _is_heading(line: str) -> bool:
    words = re.findall(r"[^\W\d_]+", line.lower())
    # A number at the end is a label or an image: identities may be called a and b.
    if re.search(r"(?:^|[\s,;\"'])\d+[\s,;\"']*$", line):
        return False
    return bool(words) and not re.search(r"[/\\.]", line) and _HEADING_WORDS.issuperset(words)


def _is_number(word: str) -> bool:
    # Of a length that int() takes; no folder has as many images.
    return word.isdecimal() and len(word) < 10


def _read_line(file: Path, number: int, line: str, images: ListedImages) -> Iterator[Pair]:
    """Yield the pair of a line; none for a comment.

    Of the ways to take the line apart, the first one counts whose images are there.
    """
    place = f"{file}, line {number}"
    problem = ""
    for exact, fields in _ways_to_split(line):
        try:
            pair = _read_fields(fields, images)
        except ValueError as error:
            problem = problem or (str(error) if exact else "")
            continue
        if pair is not None:
            if pair[0] == pair[1]:
                raise ValueError(f"{place}: an image is paired with itself, which says nothing; remove the line")
            yield pair
            return
    if not line.lstrip().startswith("#"):
        raise ValueError(f"{place}: {problem or f'expected {_FORMS}, got {line.strip()[:80]!r}'}")


def _ways_to_split(line: str) -> Iterator[tuple[bool, list[str]]]:
    """Yield whether separators alone decide, and the fields: first as they do, then with blanks within names."""
    for separator in _SEPARATORS:
        if separator in line:
            try:
                fields = next(csv.reader([line], delimiter=separator, skipinitialspace=True))
            except csv.Error:
                continue
            fields = [field.strip() for field in fields]
            while fields and not fields[-1]:
                fields.pop()
            yield True, fields
    words = line.split()
    yield True, words
    for size in (3, 4):
        if size < len(words) <= _MAX_WORDS:
            for ends in itertools.combinations(range(1, len(words)), size - 1):
                bounds = itertools.pairwise((0, *ends, len(words)))
                yield False, [" ".join(words[start:end]) for start, end in bounds]


def _read_fields(fields: list[str], images: ListedImages) -> Pair | None:
    """Return the pair that the fields of a line state; None if they have no form that is known.

    Raises:
        ValueError: if they have one, but the label is odd or the images are not there.
    """
    if len(fields) == 4 and _is_number(fields[1]) and _is_number(fields[3]):
        first, second = (images.numbered(name, int(number)) for name, number in (fields[:2], fields[2:]))
        return first, second, fields[0] == fields[2]
    # A table of pandas has its index before the rest.
    if len(fields) == 4 and _is_number(fields[0]) and fields[3].lower() in _ANSWERS:
        fields = fields[1:]
    if len(fields) != 3:
        return None
    if _is_number(fields[1]):
        if not _is_number(fields[2]):
            return None
        first, second = (images.numbered(fields[0], int(number)) for number in fields[1:])
        return first, second, True
    paths, label = fields[:2], fields[2].lower()
    if label not in _ANSWERS and fields[0].lower() in _ANSWERS:
        paths, label = fields[1:], fields[0].lower()
    if label not in _ANSWERS:
        raise ValueError(f"the label must be 1, true, 0 or false, got {fields[2][:80]!r}")
    first, second = map(images.at, paths)
    return first, second, _ANSWERS[label]


def _folds(file: Path, heading: list[int], table: Table) -> Table | None:
    """Return the fold of each pair as the heading defines them; None for a single block."""
    blocks, each = heading if len(heading) == 2 else (1, heading[0])
    if blocks * each * 2 != len(table):
        raise ValueError(
            f"{file}: the heading promises {blocks} x {each} genuine and as many impostor pairs, "
            f"{blocks * each * 2} in all, the file has {len(table)}"
        )
    genuine = table[:, 2].reshape(blocks, 2 * each).sum(axis=1)
    wrong = np.flatnonzero(genuine != each)
    if wrong.size:
        first = int(wrong[0])
        raise ValueError(
            f"{file}, line {table[2 * each * first, 3]}: the heading promises {each} genuine and {each} impostor pairs "
            f"a fold, fold {first + 1} has {genuine[first]} and {2 * each - genuine[first]}; sort the pairs by fold, "
            "or leave the heading out"
        )
    return np.repeat(np.arange(blocks), 2 * each) if blocks > 1 else None


def _warn_of_folders(file: Path, table: Table, dataset: FaceDataset) -> None:
    """Say where the labels contradict the folders: the list may be right, and then the folders are wrong."""
    labels = dataset.labels[table[:, :2]]
    wrong = np.flatnonzero((labels[:, 0] == labels[:, 1]) != table[:, 2].astype(bool))
    if wrong.size:
        first, second, issame, line = table[wrong[0]].tolist()
        logger.warning(
            "%s: %s the folders, the first in line %d: %s and %s as %s; the list decides",
            file, counted(wrong.size, "pair") + (" contradicts" if wrong.size == 1 else " contradict"), line,
            dataset.paths.relative(first), dataset.paths.relative(second),
            "the same identity" if issame else "two identities",
        )  # fmt: skip


def _find_repeated(file: Path, table: Table) -> Table:
    """Return [M, 2], for each line with a pair that came before, in either order: the line before it, and the line.

    Raises:
        ValueError: if a pair comes with both labels.
    """
    pairs = np.sort(table[:, :2], axis=1)
    order = np.lexsort((table[:, 3], pairs[:, 1], pairs[:, 0]))
    same = (pairs[order[1:]] == pairs[order[:-1]]).all(axis=1)
    before, after = table[order[:-1][same]], table[order[1:][same]]
    clash = np.flatnonzero(before[:, 2] != after[:, 2])
    if clash.size:
        lines = f"lines {before[clash[0], 3]} and {after[clash[0], 3]}"
        raise ValueError(f"{file}: {lines} give one pair both labels; remove one of them")
    found = np.stack([before[:, 3], after[:, 3]], axis=1)
    return found[np.argsort(found[:, 1])]
