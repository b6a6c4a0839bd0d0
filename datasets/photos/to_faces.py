"""Photographs -> their faces, as a table, a document for programs and pictures; resumable, in several processes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from datasets.conversion.encoding import Encoding, encode
from datasets.conversion.workspace import Journal, Workspace, open_workspace
from datasets.counted import counted
from datasets.faces.images import UnreadableImageError, decode_image
from datasets.parallel import ordered_results
from datasets.payloads import Payload
from datasets.photos.detection import Detection, Detector, Image
from datasets.photos.sources import Photographs, Task
from datasets.photos.table import csv_line
from datasets.photos.to_crops import refuse_existing, refuse_within
from datasets.progress import tracked
from system.terminal import escaped

DOCUMENT, TABLE, PICTURES = "faces.json", "faces.csv", "drawn"
CHECKPOINT = 64  # photographs between two, of a slow detector half a minute of work
COLUMNS = (
    *("path", "width", "height", "faces", "face", "score", "x1", "y1", "x2", "y2"),
    *(f"point_{axis}{number}" for number in range(1, 6) for axis in "xy"),
    "reason",
)

_RESULT = "result"
_VERSION = 1  # raised whenever the same photographs and options would give another result
_COUNTED = ("done", "with_faces", "faces", "unreadable")
_COORDINATES = (
    "pixels of the photograph as its orientation tag turns it, and edges: column i reaches from x = i to i + 1; boxes "
    "are x1 y1 x2 y2; points are eyes, nose, corners of the mouth, of two the left one first, as the viewer sees it"
)
_MARK = (230, 159, 0)  # the orange of Okabe and Ito, RGB


class Export(NamedTuple):
    """What writes another form of a document.

    Attributes:
        write: given the folder in which the document lies.
        check: given the names of the photographs before any is looked at; raises ValueError if one cannot be written.
    """

    write: Callable[[Path], None]
    check: Callable[[Sequence[str]], None] | None = None


class DetectorChoice(Protocol):
    """A detector before it is opened: small, so that every process opens its own, once."""

    def load(self) -> Detector:
        """Return the detector of this process."""


@dataclass(frozen=True)
class FindJob:
    """One search.

    Attributes:
        source: see `Photographs`.
        output: folder for what is found.
        detector: which one; what it finds in a photograph is what is written.
        settings: what the document states beside its name, and what is found depends on.
        threshold: least score; None: the detector's usual one.
        draw: whether photographs are written with what is found in them.
        jobs: processes, >= 1; the result does not depend on them.
        overwrite: whether a finished result is replaced.
    """

    source: Path
    output: Path
    detector: DetectorChoice
    settings: Mapping[str, Any]
    threshold: float | None = None
    draw: bool = True
    jobs: int = 1
    overwrite: bool = False


class FindOutcome(NamedTuple):
    """What a search came to.

    Attributes:
        counts: photographs that are "done", those "with_faces" and "unreadable", and "faces".
        detector: its name.
        first_failure: path and reason of the first photograph that cannot be read, "" if there is none.
        left_out: what else lay in the folder, in words.
    """

    counts: dict[str, int]
    detector: str
    first_failure: str = ""
    left_out: str = ""


class _Work(NamedTuple):
    faces: list[Detection]
    shape: tuple[int, int] = (0, 0)  # height and width
    picture: bytes = b""
    reason: str = ""  # why it cannot be read


def find_faces(job: FindJob, exports: Sequence[Export] = ()) -> FindOutcome:
    """Write what a detector finds in photographs into a folder: `faces.json`, `faces.csv` and pictures in `drawn`.

    Every photograph is there, also one without a face. Interrupted, the same call goes on.

    Args:
        job: the search.
        exports: what writes more files into the folder once the document is whole.
    Raises:
        ValueError: if there is no photograph, the output exists, the one photograph of a source cannot be read, the
            detector cannot be opened, or an export cannot write a photograph's name.
        OSError: if the output cannot be written.
    """
    photographs = Photographs(job.source)
    names = [photographs.names.relative(place) for place in range(len(photographs))]
    for check in (export.check for export in exports if export.check is not None):
        check(names)
    detector = job.detector.load()
    refuse_within(job.source, job.output)
    settings = _settings(job, detector)
    plan = f"{_VERSION} {json.dumps(settings)} {job.draw} {photographs.state()}"
    with open_workspace(job.output, plan) as space:
        if not space.published:
            refuse_existing(job.output, DOCUMENT, job.overwrite)
            _search(space, photographs, job, settings)
            for export in exports:
                export.write(space.folder / _RESULT)
            space.publish([(_RESULT, job.output)])
    return _read_outcome(job, photographs)


def read_document(folder: Path) -> dict[str, Any]:
    """Return the document of a search; see docs/detection.md."""
    document: dict[str, Any] = json.loads((folder / DOCUMENT).read_text(encoding="ascii"))
    return document


def summary(outcome: FindOutcome) -> list[str]:
    """Return what a search came to, in lines."""
    counts = outcome.counts
    faces, photographs = counted(counts["faces"], "face"), counted(counts["done"], "photograph")
    lines = [f"{faces} in {counts['with_faces']} of {photographs}, found by {outcome.detector}"]
    if counts["unreadable"]:
        lines.append(
            f"cannot be read: {counted(counts['unreadable'], 'photograph')}; the first: {outcome.first_failure}"
        )
    if outcome.left_out:
        lines.append(f"not looked at: {outcome.left_out}")
    return lines


def _settings(job: FindJob, detector: Detector) -> dict[str, Any]:
    """Return what the result depends on, as the document states it."""
    return {
        "schema": _VERSION,
        "detector": detector.name,
        "threshold": detector.threshold if job.threshold is None else job.threshold,
        **job.settings,
        "coordinates": _COORDINATES,
    }


def _search(space: Workspace, photographs: Photographs, job: FindJob, settings: dict[str, Any]) -> None:
    result = space.folder / _RESULT
    result.mkdir(exist_ok=True)
    names = [f"{_RESULT}/{name}" for name in (DOCUMENT, TABLE)]
    with Journal(space, names, _COUNTED) as journal:
        (document, table), counts = journal.files.values(), journal.counts
        start = counts["done"]
        if not start:
            document.write(json.dumps(settings, indent=1).removesuffix("\n}").encode() + b',\n "photographs": [')
            table.write(csv_line(COLUMNS))
        pictures = [f"{PICTURES}/{name.removesuffix('.png')}.jpg" for name in photographs.crop_names()]
        with ordered_results(partial(_find_task, job=job), photographs.tasks(start), job.jobs) as results:
            work = tracked(chain.from_iterable(results), f"Searching {job.source.name}", len(photographs) - start)
            for place, one in enumerate(work, start=start):
                if photographs.is_single and one.reason:
                    raise ValueError(f"{job.source}: {one.reason}")
                if one.picture:
                    _write(result / pictures[place], one.picture)
                name = photographs.names.relative(place)
                entry = _entry(name, one, pictures[place] if one.picture else None)
                document.write((b",\n  " if place else b"\n  ") + json.dumps(entry, allow_nan=False).encode())
                table.write(b"".join(map(csv_line, _rows(name, one))))
                _count(counts, one)
                if counts["done"] % CHECKPOINT == 0:
                    journal.checkpoint()
        journal.checkpoint()
        document.write(b'\n ],\n "counts": ' + json.dumps(counts).encode() + b"\n}\n")
        journal.sync()


def _find_task(task: Task, job: FindJob) -> list[_Work]:
    """Search some photographs; runs in any process."""
    detector = job.detector.load()
    return [_find(payload, detector, job) for payload in task.portion.read()]


def _find(payload: Payload, detector: Detector, job: FindJob) -> _Work:
    if payload.reason:
        return _Work([], reason=payload.reason)
    try:
        image = decode_image(payload.data, payload.location)
    except UnreadableImageError as error:
        return _Work([], reason=error.reason)
    found = detector.detect(image, job.threshold)
    # From centers of pixels on whole numbers to edges.
    faces = [Detection(one.box + 0.5, one.score, one.points + 0.5) for one in found]
    picture = encode(draw_faces(image, faces), Encoding("jpeg", 90)) if job.draw else b""
    return _Work(faces, (image.shape[0], image.shape[1]), picture)


def draw_faces(image: Image, faces: list[Detection]) -> Image:
    """Return an image with boxes and points in it; coordinates are edges."""
    canvas = image.copy()
    thickness = max(1, round(max(image.shape[:2]) / 400))
    for box, _, points in faces:
        left, top, right, bottom = (int(value) for value in np.clip(box.round(), -(2**15), 2**15))
        cv2.rectangle(canvas, (left, top), (right - 1, bottom - 1), _MARK, thickness)
        for x, y in np.clip(np.floor(points), -(2**15), 2**15).astype(int).tolist():
            cv2.circle(canvas, (x, y), thickness, _MARK, cv2.FILLED)
    return canvas


def _entry(name: str, work: _Work, picture: str | None) -> dict[str, Any]:
    """Return what the document says of a photograph."""
    height, width = work.shape
    faces = [
        {"box": _rounded(box), "score": round(score, 7), "points": [_rounded(point) for point in points]}
        for box, score, points in work.faces
    ]
    entry = {"path": name, "width": width, "height": height, "faces": faces, "picture": picture}
    return entry | ({"reason": work.reason} if work.reason else {})


def _rows(name: str, work: _Work) -> Iterator[list[str]]:
    """Yield a row for each face of a photograph, or the one that says that it has none."""
    height, width = work.shape
    start = [escaped(name), *([str(width), str(height)] if height else ["", ""]), str(len(work.faces))]
    for number, (box, score, points) in enumerate(work.faces, start=1):
        numbers = [f"{value:.3f}" for value in [*box.tolist(), *points.ravel().tolist()]]
        yield [*start, str(number), f"{score:.7f}", *numbers, ""]
    if not work.faces:
        yield [*start, *[""] * (len(COLUMNS) - len(start) - 1), escaped(work.reason)]


def _rounded(values: NDArray[np.float64]) -> list[float]:
    return [round(value, 3) for value in values.tolist()]


def _write(file: Path, picture: bytes) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(picture)


def _count(counts: dict[str, int], work: _Work) -> None:
    counts["done"] += 1
    counts["with_faces"] += bool(work.faces)
    counts["faces"] += len(work.faces)
    counts["unreadable"] += bool(work.reason)


def _read_outcome(job: FindJob, photographs: Photographs) -> FindOutcome:
    document = read_document(job.output)
    failed = next((one for one in document["photographs"] if "reason" in one), None)
    return FindOutcome(
        document["counts"],
        document["detector"],
        "" if failed is None else f"{failed['path']}: {failed['reason']}",
        str(photographs.left_out) if photographs.left_out else "",
    )
