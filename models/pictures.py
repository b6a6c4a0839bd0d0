"""Faces as users have them, a path, an array or a PIL image, read as uint8 [112, 112, 3] RGB."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple, TypeAlias, Union

import numpy as np
from numpy.typing import NDArray

from transforms import IMAGE_SIZE

if TYPE_CHECKING:
    from PIL.Image import Image as PilImage

Face: TypeAlias = Union[str, Path, NDArray[np.uint8], "PilImage"]

_SHAPE = (IMAGE_SIZE, IMAGE_SIZE, 3)
_LEAST_SIDE = 16  # pixels of a photograph; of fewer a network sees what resampling has made up


def read_pixels(face: Face) -> NDArray[np.uint8]:
    """Return a face as contiguous uint8 [112, 112, 3] RGB, which the caller may keep.

    A file of another size is stretched to the square, as in training; arrays and PIL images must have the size already,
    for which resampling is meant is the caller's to say.

    Raises:
        TypeError: if it is neither path, array nor PIL image, or not uint8. ValueError: if the file cannot be read, or
            the shape is another.
    """
    if isinstance(face, str | Path):
        from datasets.faces.images import fit_image, read_image

        return fit_image(read_image(Path(face)))
    if not isinstance(face, np.ndarray):
        face = _of_pil(face)
    if face.dtype != np.uint8:
        raise TypeError(f"face: an array must be uint8 in RGB order, got {face.dtype}; values are 0 to 255.")
    if face.shape != _SHAPE:
        raise ValueError(f"face: an image must be {list(_SHAPE)}, got {list(face.shape)}; align and resize it first.")
    return np.array(face, order="C")


def read_face(face: Face) -> NDArray[np.uint8]:
    """Return a face as `read_pixels` does, and refuse a file that is too small to show one.

    Raises:
        TypeError, ValueError: as `read_pixels`; also if a side of a file's image is below 16 pixels.
    """
    if not isinstance(face, str | Path):
        return read_pixels(face)
    from datasets.faces.images import fit_image, read_image

    image = read_image(Path(face))
    height, width = image.shape[:2]
    if min(height, width) < _LEAST_SIDE:
        raise ValueError(f"{face}: {width} x {height} pixels show no face; {_LEAST_SIDE} a side are the least")
    return fit_image(image)


class Aligner(NamedTuple):
    """How a photograph becomes a crop uint8 [112, 112, 3] RGB: the one place where a detector comes in.

    Attributes:
        crop: the photograph -> its face; where it finds none, or cannot read it, a ValueError in one line.
        template, detector: names that calibrations and galleries record, and refuse where they differ.
        remarks: by the path of a photograph that was cut out, what is remarkable of that: it shows others too.
    """

    crop: Callable[[Face], NDArray[np.uint8]] = read_face
    template: str = "as given"
    detector: str = "none"
    remarks: Mapping[str, str] = MappingProxyType({})

    def remarked(self, faces: Iterable[Face]) -> list[str]:
        """Return the remarks on faces that are files, each with its path."""
        named = (str(face) for face in faces if isinstance(face, str | Path))
        return [f"{name}: {self.remarks[name]}" for name in named if name in self.remarks]


AS_GIVEN = Aligner()  # photographs that are aligned already


def find_images(folder: Path) -> list[Path]:
    """Return the files in a folder and below it that have an image's suffix, sorted.

    Raises:
        FileNotFoundError: if there is no such folder.
    """
    from datasets.faces.image_kinds import KNOWN_SUFFIXES

    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder")
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in KNOWN_SUFFIXES and path.is_file())
    if not found:
        raise ValueError(f"{folder}: holds no images")
    return found


def _of_pil(face: object) -> NDArray[np.uint8]:
    # Whoever has a PIL image has imported Pillow; nobody else needs it.
    pil = sys.modules.get("PIL.Image")
    if pil is None or not isinstance(face, pil.Image):
        raise TypeError(f"face: a path, a uint8 array or a PIL image expected, got {type(face).__name__}.")
    return np.asarray(face.convert("RGB"))
