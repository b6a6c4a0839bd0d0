"""Files of scores that an evaluation leaves: pairs with every score of each, written and read."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from datasets import Pairs
from evaluation.run import CONDITIONS, MethodResults
from evaluation.scores.images import Drawn, ImageScores
from system.files import atomic_write

METHODS = ("adaface", "qaconv", "combined")
_UNREADABLE = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile)


class ScoredPairs(Protocol):
    """What is asked of a set of pairs, see `cli.pairs.image_sets.ImageSet`."""

    @property
    def pairs(self) -> Pairs:
        """By place in the images."""

    @property
    def identities(self) -> NDArray[np.int64] | None:
        """int64 [2N]."""

    @property
    def paths(self) -> Sequence[str]:
        """Of the images, where they are files."""


@dataclass(frozen=True, eq=False)
class ScoreFile:
    """Pairs and their scores, read from a file.

    Attributes:
        path: of the file.
        first, second: int64 [N], places of the images. issame: bool [N].
        scores: by "<condition>_<method>", float [N].
        folds: int64 [N] or None. identities: int64 [N, 2] or None.
        images: names of the images below their folders, empty where there are no files.
    """

    path: Path
    first: NDArray[np.int64]
    second: NDArray[np.int64]
    issame: NDArray[np.bool_]
    scores: Mapping[str, NDArray[np.float64]]
    folds: NDArray[np.int64] | None
    identities: NDArray[np.int64] | None
    images: Sequence[str]


def save_scores(path: Path, source: ScoredPairs, scored: ImageScores, results: Mapping[str, MethodResults]) -> None:
    """Write the pairs and scores used: `paths` of the images, `first` and `second` into them, issame, folds, scores.

    With `--shortlist` also which pairs were matched. Scores named exchanged are of the occluded pairs with the first
    image occluded, not the second; those of further draws of occluders have their number. A set without paths has its
    images' places alone, one without folds none, and where people are not known there are no identities.
    """
    pairs = source.pairs
    arrays: dict[str, Any] = {
        f"{condition}_{name}": values for condition, by in scored.scores.items() for name, values in by.items()
    }
    arrays |= {
        f"{condition}_combined": methods["combined"].scores.astype(np.float32)
        for condition, methods in results.items()
        if "combined" in methods
    }
    arrays |= {f"{condition}_matched": matched for condition, matched in scored.matched.items()}
    for number, drawn in enumerate((Drawn({}, scored.exchanged), *scored.further), 1):
        of_draw = "" if number == 1 else str(number)
        arrays |= {f"occluded{of_draw}_{name}": values for name, values in drawn.scores.items()}
        arrays |= {f"exchanged{of_draw}_{name}": values for name, values in drawn.exchanged.items()}
    arrays |= {} if pairs.folds is None else {"folds": pairs.folds.astype(np.int32)}
    arrays |= {} if source.identities is None else {"identities": source.identities.reshape(-1, 2).astype(np.int32)}
    with atomic_write(path, "wb") as stream:
        np.savez_compressed(
            stream,
            paths=np.array(source.paths, dtype=np.str_),
            first=pairs.first.astype(np.int32),
            second=pairs.second.astype(np.int32),
            issame=pairs.issame,
            **arrays,
        )


def find_score_files(path: Path) -> dict[str, Path]:
    """Return the files of scores by name: the path itself, or those in a folder of results.

    Raises:
        ValueError: if there is none.
    """
    if path.is_file():
        return {"scores": path}
    found = {file.stem: file for file in sorted(path.glob("scores*.npz"))} if path.is_dir() else {}
    if not found:
        what = "it holds no scores*.npz" if path.is_dir() else "it does not exist"
        raise ValueError(f"{path}: {what}; give a folder that main_eval.py wrote, or a scores.npz of it")
    return found


def read_scores(path: Path) -> ScoreFile:
    """Read what `save_scores` wrote; files of before without people take them from the images' folders.

    Raises:
        ValueError: if it is no such file, or its arrays do not fit each other; names the file.
    """
    try:
        with np.load(path, allow_pickle=False) as saved:
            arrays = {name: saved[name] for name in saved.files}
    except _UNREADABLE as error:
        raise ValueError(f"{path}: no file of scores that can be read ({type(error).__name__})") from error
    names = [f"{condition}_{method}" for condition in CONDITIONS for method in METHODS]
    scores = {name: arrays[name] for name in names if name in arrays}
    pairs = {name: arrays.get(name) for name in ("first", "second", "issame")}
    issame = pairs["issame"]
    if issame is None or issame.dtype != np.bool_ or issame.ndim != 1 or not issame.size or not scores:
        raise ValueError(f"{path}: no scores of pairs in it; give a scores.npz that main_eval.py wrote")
    expected = {**{name: array for name, array in pairs.items() if name != "issame"}, **scores}
    for name, array in expected.items():
        kind = "iu" if name in pairs else "f"
        if array is None or array.shape != issame.shape or array.dtype.kind not in kind:
            raise ValueError(f"{path}: {name} does not hold one number a pair; it is damaged")
    images = ["/".join(PurePath(image).parts[-2:]) for image in arrays.get("paths", np.array([], np.str_)).tolist()]
    first, second = (arrays[name].astype(np.int64) for name in ("first", "second"))
    return ScoreFile(
        path,
        first,
        second,
        issame,
        {name: values.astype(np.float64) for name, values in scores.items()},
        _one_a_pair(path, arrays, "folds", issame.shape),
        _people(path, arrays, images, np.stack([first, second], axis=1), issame),
        images,
    )


def _one_a_pair(path: Path, arrays: Mapping[str, Any], name: str, shape: tuple[int, ...]) -> NDArray[np.int64] | None:
    array = arrays.get(name)
    if array is None:
        return None
    if array.shape != shape or array.dtype.kind not in "iu":
        raise ValueError(f"{path}: {name} must be integers {list(shape)}, got {list(array.shape)}; it is damaged")
    return array.astype(np.int64)


def _people(
    path: Path,
    arrays: Mapping[str, Any],
    images: Sequence[str],
    places: NDArray[np.int64],
    issame: NDArray[np.bool_],
) -> NDArray[np.int64] | None:
    if "identities" in arrays:
        people = _one_a_pair(path, arrays, "identities", places.shape)
    elif images and places.min() >= 0 and places.max() < len(images):
        folders = [image.rpartition("/")[0] for image in images]
        people = np.unique(folders, return_inverse=True)[1][places].astype(np.int64)
    else:
        return None
    agrees = people is not None and np.array_equal(people[:, 0] == people[:, 1], issame)
    return people if agrees else None
