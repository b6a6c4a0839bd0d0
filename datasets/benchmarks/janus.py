"""IJB-B and IJB-C as InsightFace's meta files lay them out: images in templates, pairs of templates, galleries."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from datasets.benchmarks.mlfw import refuse_missing
from datasets.faces.images import UnreadableImageError, read_image
from datasets.faces.paths import PathTable
from datasets.sample import Image
from datasets.text_file import read_text
from transforms.align import fit_similarity, warp

NAMES = ("ijbb", "ijbc")
_IMAGES = "loose_crop"
_FIELDS = 12  # of a line of *_name_5pts_score.txt: name, five points, score
_GALLERIES = ("G1", "G2", "S1", "S2")


class Enrolled(NamedTuple):
    """Templates int64 [T] of a gallery or of probes, and their people int64 [T]."""

    templates: NDArray[np.int64]
    people: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class TemplateSet:
    """Images of templates.

    Attributes:
        name: "ijbb" or "ijbc".
        paths: file of every image.
        points: float32 [M, 5, 2], in pixels of the image. detector_scores: float32 [M].
        templates, medias: int64 [M].
        first, second: int64 [P], ids of templates. issame: bool [P].
        galleries: by name, as far as their files are there.
        probes: of the search, None where its file is missing.
    """

    name: str
    paths: PathTable
    points: NDArray[np.float32]
    detector_scores: NDArray[np.float32]
    templates: NDArray[np.int64]
    medias: NDArray[np.int64]
    first: NDArray[np.int64]
    second: NDArray[np.int64]
    issame: NDArray[np.bool_]
    galleries: Mapping[str, Enrolled]
    probes: Enrolled | None

    def __len__(self) -> int:
        return len(self.templates)

    def read(self, index: int) -> Image:
        """Return one image as uint8 [112, 112, 3] RGB, aligned by its five points.

        Raises:
            UnreadableImageError: if the file cannot be decoded, or no similarity follows from its points.
        """
        image = read_image(self.paths[index])
        try:
            return warp(image, fit_similarity(self.points[index]))
        except ValueError as error:
            raise UnreadableImageError(self.paths[index], str(error)) from error

    @property
    def identities(self) -> NDArray[np.int64] | None:
        """int64 [2P], people of both templates of each pair, None where the search does not list them all."""
        lists = [*self.galleries.values(), *([] if self.probes is None else [self.probes])]
        if not lists:
            return None
        templates, places = np.unique(np.concatenate([one.templates for one in lists]), return_index=True)
        people = np.concatenate([one.people for one in lists])[places]
        sides = np.stack([self.first, self.second], axis=1)
        found = np.searchsorted(templates, sides).clip(max=len(templates) - 1)
        if not np.array_equal(templates[found], sides):
            return None
        pairs = people[found]
        return pairs.ravel() if np.array_equal(pairs[:, 0] == pairs[:, 1], self.issame) else None

    def checksum(self) -> str:
        """Return the SHA-256 of what the meta files say of images and pairs; pixels do not count."""
        digest = hashlib.sha256()
        for array in (self.points, self.detector_scores, self.templates, self.medias, self.first, self.second):
            digest.update(np.ascontiguousarray(array).tobytes())
        digest.update(self.issame.tobytes())
        return f"sha256:{digest.hexdigest()}"


def janus_name(path: Path) -> str | None:
    """Return "ijbb" or "ijbc" where a folder holds `meta/` of it, else None."""
    return next((name for name in NAMES if (path / "meta" / f"{name}_face_tid_mid.txt").is_file()), None)


def open_janus(path: Path) -> TemplateSet:
    """Open `loose_crop/` and `meta/`: *_face_tid_mid.txt, *_template_pair_label.txt, *_name_5pts_score.txt.

    The galleries and probes of the search, `*_1N_gallery_G1.csv` (IJB-B: S1) and so on, may be missing.

    Raises:
        ValueError: naming the file, if one is missing or damaged, or they do not fit each other; one line.
    Reference: Whitelam et al., "IARPA Janus Benchmark-B Face Dataset", CVPR Workshops 2017; Maze et al., "IARPA Janus
    Benchmark - C", ICB 2018; the layout is that of InsightFace's evaluation.
    """
    name = janus_name(path)
    if name is None:
        raise ValueError(f"{path}: no meta/ijbb_face_tid_mid.txt or meta/ijbc_face_tid_mid.txt in it")
    meta = path / "meta"
    points_file, media_file = meta / f"{name}_name_5pts_score.txt", meta / f"{name}_face_tid_mid.txt"
    pair_file = meta / f"{name}_template_pair_label.txt"
    names, points, scores = _read_points(points_file)
    media_names, members = _read_members(media_file)
    if media_names != names:
        raise ValueError(f"{media_file} and {points_file} do not name the same images in the same order")
    pairs = _read_numbers(pair_file, 3, skip=0, separator=None)
    if not np.isin(pairs[:, 2], (0, 1)).all():
        raise ValueError(f"{pair_file}: the label of a pair must be 0 or 1")
    if not (fit := np.isin(pairs[:, :2], members[:, 0])).all():
        row, side = np.argwhere(~fit)[0]
        raise ValueError(f"{pair_file}, line {row + 1}: template {pairs[row, side]} has no image in {media_file.name}")
    refuse_missing(points_file, path / _IMAGES, names)
    lists = {kind: _read_enrolled(meta / f"{name}_1N_gallery_{kind}.csv", members[:, 0]) for kind in _GALLERIES}
    return TemplateSet(
        name,
        PathTable(path, [f"{_IMAGES}/{image}" for image in names]),
        points,
        scores,
        members[:, 0],
        members[:, 1],
        pairs[:, 0],
        pairs[:, 1],
        pairs[:, 2] == 1,
        {kind: found for kind, found in lists.items() if found is not None},
        _read_enrolled(meta / f"{name}_1N_probe_mixed.csv", members[:, 0]),
    )


def _read_points(file: Path) -> tuple[list[str], NDArray[np.float32], NDArray[np.float32]]:
    rows = _split_lines(file, _FIELDS)
    try:
        numbers = np.array([row[1:] for row in rows], dtype=np.float32)
    except ValueError as error:
        raise ValueError(f"{file}: five points and a score are needed in each line ({error})") from error
    if not np.isfinite(numbers).all():
        raise ValueError(f"{file}, line {np.argwhere(~np.isfinite(numbers))[0, 0] + 1}: a number is not finite")
    return [row[0] for row in rows], numbers[:, :10].reshape(-1, 5, 2), numbers[:, 10]


def _read_members(file: Path) -> tuple[list[str], NDArray[np.int64]]:
    rows = _split_lines(file, 3)
    try:
        return [row[0] for row in rows], np.array([row[1:] for row in rows], dtype=np.int64)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{file}: a template and a media are needed in each line ({error})") from error


def _split_lines(file: Path, num_fields: int) -> list[list[str]]:
    rows = [line.split() for line in read_text(file, "images").splitlines() if line.strip()]
    wrong: Sequence[int] = [number for number, row in enumerate(rows, start=1) if len(row) != num_fields]
    if wrong or not rows:
        place = f", line {wrong[0]}" if wrong else ""
        raise ValueError(f"{file}{place}: expected {num_fields} fields separated by blanks")
    if outside := next((row[0] for row in rows if "/" in row[0] or row[0].startswith(".")), None):
        raise ValueError(f"{file}: {outside[:80]!r} is no name of an image in {_IMAGES}")
    return rows


def _read_enrolled(file: Path, known: NDArray[np.int64]) -> Enrolled | None:
    """Return templates and people of a list of the search, each template once; None if there is no such file."""
    if not file.is_file():
        return None
    rows = _read_numbers(file, 2, skip=1, separator=",")
    templates, places = np.unique(rows[:, 0], return_index=True)
    if missing := set(templates.tolist()) - set(known.tolist()):
        raise ValueError(
            f"{file}: {len(missing)} of {len(templates)} templates have no image, the first is {min(missing)}"
        )
    return Enrolled(templates, rows[places, 1])


def _read_numbers(file: Path, num_columns: int, skip: int, separator: str | None) -> NDArray[np.int64]:
    try:
        columns = range(num_columns)
        rows = np.loadtxt(file, np.int64, comments=None, delimiter=separator, skiprows=skip, usecols=columns, ndmin=2)
    except OSError as error:
        raise ValueError(f"{file}: cannot be read ({error.strerror or error})") from error
    except ValueError as error:
        raise ValueError(f"{file}: expected whole numbers in {num_columns} columns ({error})") from error
    if not len(rows):
        raise ValueError(f"{file}: nothing in it")
    return rows
