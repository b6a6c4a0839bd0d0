"""Labels in COCO's JSON: images, annotations with boxes and five keypoints."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from datasets.detection.labels import (
    LabeledPhoto,
    PhotoLabels,
    Row,
    Skipped,
    checked_name,
    finished,
    make_photo,
)
from datasets.text_file import read_text
from system.files import write_text

_NUM_KEYPOINTS = 15
_LONGEST_WORD = 40


def read_coco(path: Path) -> PhotoLabels:
    """Read labels in COCO's JSON.

    `images` have id, file_name and, if known, width and height; `annotations` image_id, bbox (x, y, width, height),
    and if known iscrowd or ignore (1: the face is ignored), five keypoints (x, y, v; v = 0: not labeled), and two of
    ours: `occlusion`, the share in [0, 1] that is hidden, and `occluder`, what covers the face in one word. Of several
    categories the one called "face" counts.

    Images without faces stay. A face is left out, counted and said in a warning, as `read_label_text` says.

    Raises:
        ValueError: naming the file and the annotation, if it cannot be read, is cut off, has another form, an image
            comes twice or is missing, or no category is called "face".
    """
    content = _parsed(path)
    images, annotations = (_list(path, content, key) for key in ("images", "annotations"))
    wanted = _face_category(path, content.get("categories"))
    rows: dict[Any, list[Row]] = {}
    for number, image in enumerate(images, start=1):
        key = _value(image, "id", f"{path}, image {number}")
        if not isinstance(key, int | str) or key in rows:
            raise ValueError(f"{path}, image {number}: the id {str(key)[:40]!r} is no id or comes twice")
        rows[key] = []
    for number, annotation in enumerate(annotations, start=1):
        place = f"{path}, annotation {number}"
        key = _value(annotation, "image_id", place)
        if not isinstance(key, int | str) or key not in rows:
            raise ValueError(f"{place}: there is no image {str(key)[:40]!r}")
        if wanted is None or annotation.get("category_id") == wanted:
            rows[key].append(_row(place, number, annotation))
    skipped: list[Skipped] = []
    photos, seen = [], set()
    for number, image in enumerate(images, start=1):
        place = f"{path}, image {number}"
        name = checked_name(str(_value(image, "file_name", place)), place)
        if name in seen:
            raise ValueError(f"{place}: {name[:80]!r} comes twice")
        seen.add(name)
        photos.append(make_photo(name, rows[image["id"]], _size(image, place), skipped))
    return finished(PhotoLabels(path, photos, skipped, "annotation"))


def write_coco(path: Path, photos: Sequence[LabeledPhoto]) -> None:
    """Write photographs of known size in COCO's JSON: boxes, points, ignored faces, what is hidden and by what.

    Raises:
        OSError: if it cannot be written.
    """
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, photo in enumerate(photos, start=1):
        assert photo.size is not None, "photographs of known size are written"
        images.append({"id": number, "file_name": photo.name, "width": photo.size[0], "height": photo.size[1]})
        for face in range(len(photo.places)):
            annotations.append({"id": len(annotations) + 1, "image_id": number, **_annotation(photo, face)})
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "face"}]}
    write_text(path, json.dumps(content, allow_nan=False) + "\n")


def _annotation(photo: LabeledPhoto, face: int) -> dict[str, Any]:
    faces = photo.faces
    x1, y1, x2, y2 = np.round(faces.boxes[face].astype(np.float64), 3).tolist()
    width, height = round(x2 - x1, 3), round(y2 - y1, 3)
    points = np.round(faces.points[face].astype(np.float64), 3).tolist()
    known: dict[str, Any] = {}
    if not np.isnan(faces.hidden[face]):
        known["occlusion"] = round(float(faces.hidden[face]), 4)
    if photo.occluders[face]:
        known["occluder"] = photo.occluders[face]
    return {
        "category_id": 1,
        "bbox": [x1, y1, width, height],
        "area": round(width * height, 3),
        "iscrowd": int(faces.ignored[face]),
        "num_keypoints": sum(not math.isnan(x) for x, _ in points),
        "keypoints": [value for x, y in points for value in ((0, 0, 0) if math.isnan(x) else (x, y, 2))],
        **known,
    }


def _parsed(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(read_text(path, "labels"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}, line {error.lineno}: no JSON ({error.msg}); cut off?") from error
    except RecursionError as error:
        raise ValueError(f"{path}: JSON that is nested too deep for labels") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: COCO's JSON expected, an object with images and annotations")
    return content


def _list(path: Path, content: dict[str, Any], key: str) -> list[dict[str, Any]]:
    entries = content.get(key)
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ValueError(f"{path}: COCO's JSON has a list of objects {key!r}; this file has none")
    return entries


def _value(entry: dict[str, Any], key: str, place: str) -> Any:
    if key not in entry:
        raise ValueError(f"{place}: has no {key!r}")
    return entry[key]


def _face_category(path: Path, categories: object) -> Any:
    """Return the id of the category of faces, None where there is but one kind of thing."""
    if not isinstance(categories, list) or len(categories) < 2:
        return None
    named = {str(entry.get("name", "")).lower(): entry.get("id") for entry in categories if isinstance(entry, dict)}
    if "face" not in named:
        raise ValueError(f"{path}: of its {len(categories)} categories none is called 'face'")
    return named["face"]


def _row(place: str, number: int, annotation: dict[str, Any]) -> Row:
    x, y, width, height = _floats(annotation, "bbox", 4, place)
    points = None
    if annotation.get("keypoints"):
        triples = np.array(_floats(annotation, "keypoints", _NUM_KEYPOINTS, place)).reshape(5, 3)
        given = np.where(np.isfinite(triples[:, :2]), triples[:, :2], np.inf)
        given[triples[:, 2] == 0] = np.nan
        points = given.ravel().tolist()
    hidden = annotation.get("occlusion", math.nan)
    if not isinstance(hidden, int | float) or not (math.isnan(hidden) or 0 <= hidden <= 1):
        raise ValueError(f"{place}: occlusion is a share in [0, 1], got {str(hidden)[:40]!r}")
    ignored = bool(annotation.get("iscrowd")) or bool(annotation.get("ignore"))
    occluder = annotation.get("occluder", "")
    if not isinstance(occluder, str) or len(occluder) > _LONGEST_WORD:
        raise ValueError(f"{place}: occluder is one word, got {str(occluder)[:40]!r}")
    return Row(number, (x, y, x + width, y + height), points, ignored, hidden=float(hidden), occluder=occluder)


def _floats(annotation: dict[str, Any], key: str, length: int, place: str) -> list[float]:
    values = _value(annotation, key, place)
    if (
        not isinstance(values, list)
        or len(values) != length
        or not all(isinstance(value, int | float) for value in values)
    ):
        raise ValueError(f"{place}: {key} has {length} numbers, got {str(values)[:60]!r}")
    return [_float(value) for value in values]


def _float(value: float) -> float:
    try:
        return float(value)
    except OverflowError:  # an integer of hundreds of digits
        return math.inf


def _size(image: dict[str, Any], place: str) -> tuple[int, int] | None:
    size = image.get("width"), image.get("height")
    if size == (None, None):
        return None
    width, height = size
    if not isinstance(width, int) or not isinstance(height, int) or width < 1 or height < 1:
        raise ValueError(f"{place}: width and height are whole numbers >= 1, got {str(size)[:40]}")
    return width, height
