"""Lists of people who are the same in several data sets: lines `web/n000123 = masked/Ann_Lee`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from datasets.text_file import read_text

_Place = tuple[int, int]  # set and label
_Groups = dict[_Place, dict[int, int]]  # by member: the label of the group's member in each set


def read_merged_identities(path: Path, sets: Mapping[str, Sequence[str]]) -> dict[str, NDArray[np.int64]]:
    """Return for each data set which person each of its labels is, the same number for the same person in all sets.

    A line is `set/person = set/person`, with more `= set/person` if need be; what follows a `#` after a space or at the
    start of a line is a comment. The name of a set ends at the first slash, a person's name may hold others. Equality
    is carried on: of three sets two lines are enough.

    Args:
        path: the list.
        sets: by the name of each data set the names of its people, in label order.
    Returns:
        By set int64 [labels]. Numbers run from 0 without gaps in the order of sets and labels.
    Raises:
        ValueError: in one line with file and line number, if the list cannot be read or is empty, a line is none as
            above, a set or a person does not exist, or two people of one set would become one: then the set itself
            should be cleaned, or the list is wrong.
    """
    names = list(sets)
    labels = [{person: label for label, person in enumerate(people)} for people in sets.values()]
    groups: _Groups = {}
    for number, line in enumerate(read_text(path, "merged identities").splitlines(), 1):
        words = _without_comment(line)
        if not words:
            continue
        try:
            places = [_place(word.strip(), names, labels) for word in words.split("=")]
            if len(places) < 2:
                raise ValueError(f"expected set/person = set/person, got {words[:80]!r}")
            for other in places[1:]:
                _join(groups, places[0], other, sets)
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: {error}") from None
    if not groups:
        raise ValueError(f"{path}: holds no line such as set/person = set/person")
    return _numbered(groups, sets)


def _without_comment(line: str) -> str:
    return "" if line.startswith("#") else line.split(" #", 1)[0].strip()


def _place(word: str, names: list[str], labels: list[dict[str, int]]) -> _Place:
    name, slash, person = word.partition("/")
    if not slash or not name or not person:
        raise ValueError(f"expected set/person, got {word[:80]!r}")
    if name not in names:
        raise ValueError(f"there is no data set {name[:80]!r}; the sets are {', '.join(names)}")
    number = names.index(name)
    if person not in labels[number]:
        raise ValueError(f"data set {name} has no person {person[:80]!r}")
    return number, labels[number][person]


def _join(
    groups: dict[_Place, dict[int, int]], first: _Place, second: _Place, sets: Mapping[str, Sequence[str]]
) -> None:
    """Make two people and whoever is the same as either of them one group."""
    ours, theirs = (groups.get(place, dict([place])) for place in (first, second))
    for number, label in theirs.items():
        if ours.get(number, label) != label:
            name, people = list(sets.items())[number]
            raise ValueError(
                f"{people[ours[number]]!r} and {people[label]!r} of data set {name} would become one person; merge "
                "them in the set itself, or correct the list"
            )
    merged = ours | theirs
    groups |= dict.fromkeys(merged.items(), merged)


def _numbered(groups: _Groups, sets: Mapping[str, Sequence[str]]) -> dict[str, NDArray[np.int64]]:
    """Return the numbers of all people: of a group the number of its member in the first set."""
    numbers: dict[str, NDArray[np.int64]] = {}
    of_place: dict[_Place, int] = {}
    count = 0
    for number, (name, people) in enumerate(sets.items()):
        own = np.empty(len(people), np.int64)
        for label in range(len(people)):
            first = min(groups.get((number, label), {number: label}).items())
            if first not in of_place:
                of_place[first] = count
                count += 1
            own[label] = of_place[first]
        numbers[name] = own
    return numbers
