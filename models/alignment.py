"""A photograph in Python: the face found and aligned, or one error that says why not."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from datasets.photos.aligned import ALIGNED, Aligned, Finder, align_with
from datasets.photos.given_points import NAMED
from datasets.photos.people import detector_of_crop
from models.detectors import DetectorChoice, open_detector
from models.pictures import Aligner, Face, read_face
from transforms import IMAGE_SIZE

TEMPLATE_NAME = f"five points, {IMAGE_SIZE} x {IMAGE_SIZE}"


class Alignment(NamedTuple):
    """How photographs became crops: names of the template and of the detector.

    Scores of crops that were made otherwise than those of the training are lower, and mean something else.
    """

    template: str
    detector: str

    @classmethod
    def of(cls, facts: Mapping[str, object]) -> Alignment | None:
        """Return what the facts of a run or an evaluation say.

        None where they do not: crops that were aligned elsewhere, drawn faces, a table of points, which names no
        detector.
        """
        template, detector = facts.get("template"), facts.get("detector")
        known = isinstance(template, str) and isinstance(detector, str) and not detector.startswith(NAMED)
        return cls(str(template), str(detector)) if known else None

    def refuse_other(self, used: Alignment | None) -> None:
        """Refuse crops that were made otherwise than those that a model was trained on; None: it is not known how.

        Raises:
            ValueError: one line that says what differs, and how to say that it is meant.
        """
        for name, trained, other in zip(self._fields, self, used or self, strict=True):
            if trained != other:
                raise ValueError(
                    f"the model was trained on faces aligned with the {name} {trained!r}, these are with {other!r}:"
                    " give --detector as in its training; if the difference is meant, align with main.py align and add"
                    " --align no"
                )


class NoFaceError(ValueError):
    """A photograph without a face that can be aligned.

    Attributes:
        aligned: what was found; its `status` is "no face", "cut" or "degenerate".
    """

    def __init__(self, aligned: Aligned, place: str) -> None:
        super().__init__(f"{place}: {aligned.reason}")
        self.aligned = aligned


def align_photograph(
    photograph: str | Path | NDArray[np.uint8], detector: Finder | None = None, size: int = IMAGE_SIZE
) -> Aligned:
    """Return the aligned face of a photograph: its crop uint8 [size, size, 3] RGB, box, points, matrix and residual.

    Args:
        photograph: a file, turned as its orientation tag says, or uint8 [H, W, 3] RGB.
        detector: of this thread, see `open_detector`; None: the embedded one, opened for this call. Points from a table
            are those of the path as it is given.
        size: side of the crop, a multiple of 112 or 128.
    Raises:
        NoFaceError: if no face is found, the border cuts it, or its five points are no face's.
        ValueError, TypeError: if the file or the array is no photograph.
    """
    from datasets.faces.images import read_image

    name = str(photograph) if isinstance(photograph, str | Path) else ""
    image = read_image(Path(photograph)) if isinstance(photograph, str | Path) else photograph
    aligned = align_with(open_detector() if detector is None else detector, image, size, name)
    if aligned.status != ALIGNED:
        raise NoFaceError(aligned, name or "photograph")
    return aligned


def aligner(detector: str = DetectorChoice.word) -> Aligner:
    """Return what turns photographs into crops by a detector, for answers, calibrations and galleries.

    Files that `main.py align` cut out with the same detector are taken as they are.

    Args:
        detector: see `open_detector`.
    Raises:
        ValueError: if it cannot be opened.
    """
    finder, remarks = open_detector(detector), {}

    def crop(face: Face) -> NDArray[np.uint8]:
        if isinstance(face, str | Path) and detector_of_crop(Path(face)) == finder.name:
            return read_face(face)
        photograph = face if isinstance(face, str | Path | np.ndarray) else np.asarray(face.convert("RGB"))
        found = align_photograph(photograph, finder)
        assert found.crop is not None  # what is not aligned raises
        if found.reason and isinstance(face, str | Path):
            remarks[str(face)] = found.reason
        return found.crop

    return Aligner(crop, TEMPLATE_NAME, finder.name, remarks)
