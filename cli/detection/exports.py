"""What a search found in the forms that others read: COCO's JSON, and the files of WIDER FACE's evaluation."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datasets.photos.sources import without_suffix
from datasets.photos.to_faces import Export, read_document
from evaluation import write_predictions
from evaluation.detection.prediction_files import is_plain
from system.files import write_text


def _write_coco(folder: Path) -> None:
    """Write what a document in a folder says as COCO's JSON, each annotation with its score.

    Photographs that cannot be read are left out: they have no size.
    """
    photographs = [one for one in read_document(folder)["photographs"] if "reason" not in one]
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, photograph in enumerate(photographs, start=1):
        size = {side: photograph[side] for side in ("width", "height")}
        images.append({"id": number, "file_name": photograph["path"], **size})
        for face in photograph["faces"]:
            annotations.append({"id": len(annotations) + 1, "image_id": number, **_annotation(face)})
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "face"}]}
    write_text(folder / "coco.json", json.dumps(content, allow_nan=False) + "\n")


def _write_wider(folder: Path) -> None:
    """Write what a document in a folder says as `wider/<path without its suffix>.txt`.

    Where two photographs would have one file, their own suffix stays in it. One that cannot be read has no detections.
    """
    photographs = read_document(folder)["photographs"]
    names = without_suffix([one["path"] for one in photographs])
    for name, photograph in zip(names, photographs, strict=True):
        faces = photograph["faces"]
        write_predictions(folder / "wider", name, [face["box"] for face in faces], [face["score"] for face in faces])


def _check_wider(names: Sequence[str]) -> None:
    if bad := [name for name in names if not is_plain(name)]:
        raise ValueError(
            f"--wider: {len(bad)} of {len(names)} photographs have a name that WIDER FACE's form cannot hold (hidden,"
            f" with a backslash or a line break, or not in UTF-8); the first: {bad[0][:200]!r}"
        )


def _annotation(face: dict[str, Any]) -> dict[str, Any]:
    x1, y1, x2, y2 = face["box"]
    width, height = round(x2 - x1, 3), round(y2 - y1, 3)
    return {
        "category_id": 1,
        "bbox": [x1, y1, width, height],
        "area": round(width * height, 3),
        "iscrowd": 0,
        "num_keypoints": len(face["points"]),
        "keypoints": [value for x, y in face["points"] for value in (x, y, 2)],
        "score": face["score"],
    }


COCO, WIDER = Export(_write_coco), Export(_write_wider, _check_wider)
