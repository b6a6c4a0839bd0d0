"""A photograph with its faces and what a detector found; missed faces and mistakes stand out."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from typing import NamedTuple

from evaluation.detection.boxes import Floats
from evaluation.detection.summary import DetectedFaces, LabeledFaces, photo_errors
from system.page.markup import Markup, element

_STYLES = {
    "face": "a face that was found",
    "missed": "a face that was missed",
    "ignored": "a face that need not be found",
    "detection": "a detection of a face",
    "mistake": "a detection of no face",
}


class DrawnPhoto(NamedTuple):
    """What is drawn.

    Attributes:
        name: of the photograph.
        picture: a JPEG file of it, at any size.
        size: width and height of the photograph in the pixels of all boxes.
        faces, used: of it.
    """

    name: str
    picture: bytes
    size: tuple[int, int]
    faces: LabeledFaces
    used: DetectedFaces


def drawn_photo(photo: DrawnPhoto) -> Markup:
    """Return the figure of a photograph."""
    missed, mistakes = photo_errors(photo.faces, photo.used)
    truth, found = photo.faces.truth, photo.used.found
    marks = [
        *_boxes(truth.boxes[~missed & ~truth.ignored], "face"),
        *_boxes(truth.boxes[truth.ignored], "ignored"),
        *_boxes(found.boxes[~mistakes], "detection"),
        *_boxes(truth.boxes[missed], "missed"),
        *_boxes(found.boxes[mistakes], "mistake"),
    ]
    width, height = photo.size
    uri = f"data:image/jpeg;base64,{base64.b64encode(photo.picture).decode()}"
    image = element("image", href=uri, width=width, height=height, preserveAspectRatio="none")
    told = f"{missed.sum()} of {(~truth.ignored).sum()} faces missed, {mistakes.sum()} mistakes"
    picture = element(
        "svg", image, marks, viewBox=f"0 0 {width} {height}", role="img", aria_label=f"{photo.name}: {told}"
    )
    return element("figure", picture, element("figcaption", photo.name, element("br"), told))


def photo_legend() -> Markup:
    """Return what the boxes stand for."""
    items = [
        element(
            "li", element("svg", _rectangle(2, 2, 24, 8, style), viewBox="0 0 28 12", aria_hidden="true"), " ", text
        )
        for style, text in _STYLES.items()
    ]
    return element("ul", items, class_="legend")


def _boxes(boxes: Floats, style: str) -> Iterable[Markup]:
    return (_rectangle(x1, y1, x2 - x1, y2 - y1, style) for x1, y1, x2, y2 in boxes.tolist())


def _rectangle(x: float, y: float, width: float, height: float, style: str) -> Markup:
    return element(
        "rect", x=f"{x:.1f}", y=f"{y:.1f}", width=f"{width:.1f}", height=f"{height:.1f}", class_=f"box {style}"
    )
