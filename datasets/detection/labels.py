"""What the files of labels have in common: photographs with their faces, and what of a file had to be left out."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from datasets.counted import counted
from system.terminal import printable
from transforms.detection.faces import FaceBoxes, face_boxes

logger = logging.getLogger(__name__)


class LabeledPhoto(NamedTuple):
    """One photograph of a file of labels.

    Attributes:
        name: path relative to the folder of images, with forward slashes.
        faces: of it, N >= 0.
        places: int64 [N], line (in JSON: place among the annotations, from 1) of each face.
        size: width and height as the file states them, None where it does not.
        occluders: of each face, what covers it, in one word; "" where the file does not say.
    """

    name: str
    faces: FaceBoxes
    places: NDArray[np.int64]
    size: tuple[int, int] | None
    occluders: tuple[str, ...]

    def take(self, chosen: NDArray[np.bool_]) -> LabeledPhoto:
        """Return the photograph with some of its faces, by flag."""
        kept = tuple(name for name, stays in zip(self.occluders, chosen.tolist(), strict=True) if stays)
        return self._replace(faces=self.faces.take(chosen), places=self.places[chosen], occluders=kept)


class Skipped(NamedTuple):
    """A face that was left out: the line (in JSON: the annotation) and why."""

    place: int
    reason: str


class PhotoLabels(NamedTuple):
    """A file of labels.

    Attributes:
        file: where they are from.
        photos: in the order of the file, also those without faces.
        skipped: faces that were left out.
        unit: what places count: "line" or "annotation".
    """

    file: Path
    photos: Sequence[LabeledPhoto]
    skipped: Sequence[Skipped]
    unit: str = "line"

    @property
    def num_faces(self) -> int:
        """Faces of all photographs."""
        return sum(len(photo.places) for photo in self.photos)

    @property
    def num_empty(self) -> int:
        """Photographs without a face: they teach what is none."""
        return sum(len(photo.places) == 0 for photo in self.photos)


class Row(NamedTuple):
    """One face as a file states it: box x1 y1 x2 y2, ten numbers of points or none, flags."""

    place: int
    box: Sequence[float]
    points: Sequence[float] | None = None
    ignored: bool = False
    attributes: Sequence[float] | None = None
    hidden: float = float("nan")
    occluder: str = ""


LARGEST = 1e6  # coordinate in pixels; more is no photograph's
NO_POINTS = (float("nan"),) * 10
UNKNOWN = (-1.0,) * 5


def box_fault(box: Sequence[float], size: tuple[int, int] | None) -> str:
    """Return why a box is no face's, "" if it may be one; a size is width and height of the photograph."""
    if not (np.abs(box) < LARGEST).all():
        return "a number that is not finite or too large"
    if box[2] <= box[0] or box[3] <= box[1]:
        return "no width or no height"
    if size is not None and (box[2] <= 0 or box[3] <= 0 or box[0] >= size[0] or box[1] >= size[1]):
        return "outside the photograph"
    return ""


def make_photo(name: str, rows: Sequence[Row], size: tuple[int, int] | None, skipped: list[Skipped]) -> LabeledPhoto:
    """Return a photograph with the faces that are sound, and add the others to `skipped`.

    Points that are NaN in a row are not labeled; of points that a file gives as no number, readers make inf.
    """
    good = []
    for row in rows:
        reason = box_fault(row.box, size)
        if not reason and (np.abs(row.points or 0.0) >= LARGEST).any():
            reason = "points that are not finite or too large"
        if reason:
            skipped.append(Skipped(row.place, reason))
        else:
            good.append(row)
    faces = face_boxes(
        [row.box for row in good],
        [row.points or NO_POINTS for row in good],
        [row.ignored for row in good],
        [row.attributes or UNKNOWN for row in good],
        [row.hidden for row in good],
    )
    places = np.array([row.place for row in good], np.int64)
    return LabeledPhoto(name, faces, places, size, tuple(row.occluder for row in good))


def finished(labels: PhotoLabels) -> PhotoLabels:
    """Return labels that were read, after a warning about faces that were left out.

    Raises:
        ValueError: if there are no photographs in them.
    """
    if not labels.photos:
        raise ValueError(f"{labels.file}: no photographs in it")
    warn_of_skipped(labels.file, labels.skipped, labels.unit)
    return labels


def warn_of_skipped(file: Path, skipped: Sequence[Skipped], unit: str) -> None:
    """Say in one line how many faces were left out and why, if any were."""
    if skipped:
        reasons = ", ".join(f"{number} with {reason}" for reason, number in Counter(s.reason for s in skipped).items())
        reasons = reasons.replace("with outside", "outside")
        logger.warning(
            "%s: %s left out: %s; the first: %s %d",
            printable(file), counted(len(skipped), "face"), reasons, unit, skipped[0].place,
        )  # fmt: skip


def checked_name(name: str, place: str) -> str:
    """Return the path of a photograph with forward slashes.

    Raises:
        ValueError: if it is no path below a folder.
    """
    plain = name.strip().replace("\\", "/").removeprefix("./")
    parts = plain.split("/")
    if not plain or "\0" in plain or ":" in parts[0] or any(part in ("", "..", ".") for part in parts):
        raise ValueError(f"{place}: {name[:80]!r} is no path of a photograph below the folder")
    return plain
