"""MLFW, masked LFW: aligned images in one folder beside the list of their pairs."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

import numpy as np

from datasets.benchmarks.benchmark_folder import PairStream
from datasets.benchmarks.converted import Source
from datasets.faces.images import fit_image, read_image
from datasets.text_file import read_text

_LIST, _IMAGES = "pairs.txt", "aligned"
# Hilary_McKay_0001_0001.jpg is an image of Hilary_McKay.
_PERSON = re.compile(r"(.+?)(?:_\d+)+\.[A-Za-z]+")


def is_mlfw(folder: Path) -> bool:
    """Return whether a folder is laid out as MLFW is: images in `aligned/` itself, and the list beside it."""
    images = folder / _IMAGES
    return (folder / _LIST).is_file() and images.is_dir() and not any(entry.is_dir() for entry in images.iterdir())


def open_mlfw(folder: Path) -> Source:
    """Return the set whose pairs are the lines `a.jpg b.jpg label` of pairs.txt, label 1 for the same person.

    Folds are not marked; those of ten equal parts in the order of the list are CALFW's, whose pairs, size and people in
    each fold the authors kept (whdeng.cn/mlfw). People are those of the names of the images, where they agree with the
    labels.

    Raises:
        ValueError: naming file and line, if the list is damaged or names images that are not there.
    Reference: Wang, Fang, Zhong, Deng, "MLFW: A Database for Face Recognition on Masked Faces", CCBR 2022.
    """
    first_names, second_names, issame = _read_list(folder / _LIST)
    names = [name for pair in zip(first_names, second_names, strict=True) for name in pair]
    refuse_missing(folder / _LIST, folder / _IMAGES, names)
    used = [f"{_IMAGES}/{name}" for name in dict.fromkeys(names)]
    return Source(folder, [_LIST, *used], [_LIST], partial(_read, folder / _IMAGES, names, issame))


def refuse_missing(file: Path, folder: Path, names: list[str]) -> None:
    """Refuse a list that names images which are not in their folder.

    Raises:
        ValueError: with their number and the first.
    """
    distinct = dict.fromkeys(names)
    if missing := [name for name in distinct if not (folder / name).is_file()]:
        raise ValueError(
            f"{file}: {len(missing)} of {len(distinct)} images are not in {folder}, the first is {missing[0][:80]!r};"
            " copy them there"
        )


def _read_list(file: Path) -> tuple[list[str], list[str], np.ndarray]:
    first, second, labels = [], [], []
    for number, line in enumerate(read_text(file, "pairs").splitlines(), start=1):
        fields = line.split()
        if not fields:
            continue
        if len(fields) != 3 or fields[2] not in ("0", "1") or any("/" in name or "\\" in name for name in fields[:2]):
            raise ValueError(f"{file}, line {number}: expected 'a.jpg b.jpg 0 or 1', got {line.strip()[:80]!r}")
        first.append(fields[0])
        second.append(fields[1])
        labels.append(fields[2] == "1")
    if not labels:
        raise ValueError(f"{file}: no pairs in it; expected lines 'a.jpg b.jpg 0 or 1'")
    return first, second, np.array(labels)


def _read(folder: Path, names: list[str], issame: np.ndarray) -> PairStream:
    people = [match[1] if (match := _PERSON.fullmatch(name)) else name for name in names]
    identities = np.unique(people, return_inverse=True)[1].astype(np.int64)
    agrees = np.array_equal(identities[::2] == identities[1::2], issame)
    images = (fit_image(read_image(folder / name)) for name in names)
    return PairStream(images, len(names), issame, None, identities if agrees else None)
