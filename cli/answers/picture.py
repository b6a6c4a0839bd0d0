"""The picture of an answer: both aligned faces, what of them is visible, and the cells that match best."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from models import Aligner, Answer, FaceModel
from models.answers import CellMatch, best_cells, shares_of
from models.portraits import describe_portraits
from system.files import atomic_write
from system.terminal import printable

Image = NDArray[np.uint8]

_SIDE = 448  # pixels of a face
_GAP, _MARGIN, _LINE = 64, 24, 26
_PAPER, _INK, _VEIL = (255, 255, 255), (40, 40, 40), (40, 24, 20)  # BGR
# Okabe, Ito, "Color universal design", 2008, in BGR: told apart with every kind of color vision.
_COLORS = ((0, 159, 230), (233, 180, 86), (115, 158, 0), (66, 228, 240), (178, 114, 0), (0, 94, 213), (167, 121, 204))


def write_picture(path: Path, model: FaceModel, pair: tuple[Path, Path], answer: Answer, aligner: Aligner) -> None:
    """Write the picture of an answer as PNG; an older file stays whole until the new one is.

    Raises:
        OSError: if it cannot be written. ValueError: if a face cannot be read.
    """
    crops = np.stack([aligner.crop(face) for face in pair])
    faces = describe_portraits(model, crops)
    visibility = faces.faces.views[0].visibility if faces.faces.views else None
    seen = None if visibility is None else visibility[:, 0].cpu().numpy()
    canvas = draw(crops, seen, best_cells(model, faces), model.model.map_shape[1:])
    captions = [f"{face.name}, {_visible(share)}" for face, share in zip(pair, shares_of(faces), strict=True)]
    _caption(canvas, captions, str(answer).splitlines()[0])
    data = cv2.imencode(".png", canvas)[1]
    with atomic_write(path, "wb") as stream:
        stream.write(data.tobytes())


def draw(
    crops: Image, visibility: NDArray[np.float32] | None, matches: list[CellMatch], grid: tuple[int, int]
) -> Image:
    """Return the canvas, uint8 [H, W, 3] BGR, with room for a line above and below.

    Args:
        crops: uint8 [2, 112, 112, 3] RGB.
        visibility: [2, h, w] in [0, 1]; what is hidden becomes dark. None: not known.
        matches: cells to join, best first.
        grid: rows and columns of the map that the cells are of.
    """
    canvas = np.full((_SIDE + 2 * _LINE + 2 * _MARGIN, 2 * (_SIDE + _MARGIN) + _GAP, 3), _PAPER, np.uint8)
    for place, crop in enumerate(crops):
        left, top = _corner(place)
        large = cv2.resize(cv2.cvtColor(crop, cv2.COLOR_RGB2BGR), (_SIDE, _SIDE), interpolation=cv2.INTER_CUBIC)
        canvas[top : top + _SIDE, left : left + _SIDE] = (
            large if visibility is None else _veil(large, visibility[place])
        )
    for number, match in enumerate(reversed(matches)):
        color = _COLORS[(len(matches) - 1 - number) % len(_COLORS)]
        first, second = (_center(place, cell, grid) for place, cell in enumerate((match.first, match.second)))
        cv2.polylines(canvas, [_arc(first, second, number)], False, color, 2, cv2.LINE_AA)
        for center in (first, second):
            cv2.circle(canvas, center, 7, color, cv2.FILLED, cv2.LINE_AA)
            cv2.circle(canvas, center, 7, _INK, 1, cv2.LINE_AA)
    return canvas


def _veil(face: Image, visibility: NDArray[np.float32]) -> Image:
    """Return a face whose hidden cells are dark, cell by cell as the network sees them."""
    seen = cv2.resize(visibility, face.shape[1::-1], interpolation=cv2.INTER_NEAREST)[..., None]
    weight = 0.25 + 0.75 * seen
    return (face * weight + np.array(_VEIL) * (1 - weight)).round().astype(np.uint8)


def _corner(place: int) -> tuple[int, int]:
    return _MARGIN + place * (_SIDE + _GAP), _MARGIN + _LINE


def _center(place: int, cell: tuple[int, int], grid: tuple[int, ...]) -> tuple[int, int]:
    left, top = _corner(place)
    (row, column), (rows, columns) = cell, grid
    return left + round((column + 0.5) * _SIDE / columns), top + round((row + 0.5) * _SIDE / rows)


def _arc(first: tuple[int, int], second: tuple[int, int], number: int) -> NDArray[np.int32]:
    """Return the points of a line that bows by its number: matches in one row do not hide each other."""
    along = np.linspace(0, 1, 33)[:, None]
    bow = np.array([0, 5 * (number + 1) * (-1) ** number])
    return np.round((1 - along) * first + along * second + 4 * along * (1 - along) * bow).astype(np.int32)


def _caption(canvas: Image, captions: list[str], verdict: str) -> None:
    _text(canvas, verdict, (_MARGIN, _LINE))
    for place, caption in enumerate(captions):
        left, top = _corner(place)
        _text(canvas, printable(caption, 48), (left, top + _SIDE + _LINE - 4))


def _text(canvas: Image, text: str, place: tuple[int, int]) -> None:
    # The letters of OpenCV are those of ASCII.
    plain = printable(text).encode("ascii", "replace").decode()
    cv2.putText(canvas, plain, place, cv2.FONT_HERSHEY_SIMPLEX, 0.5, _INK, 1, cv2.LINE_AA)


def _visible(share: float | None) -> str:
    return "visibility not known" if share is None else f"{100 * share:.0f} % visible"
