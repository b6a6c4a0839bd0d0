"""Detectors run over photographs once: what they found is kept in files, so that an interrupted run goes on."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from datasets.detection.photos import LabeledPhotos
from datasets.faces.images import read_image
from datasets.photos.detection import Detection, Detector
from datasets.progress import tracked
from evaluation import Found, read_predictions
from evaluation.detection.summary import DetectedFaces, DetectorFaces
from models.detectors.sized import SizedDetector, TestSizes
from system.files import write_text

_NUMBERS = 15  # of a detection: box, score, five points


class Seen(NamedTuple):
    """What a detector found in a photograph: rows [M, 15] down to a low score and in use, seconds of the latter."""

    every: NDArray[np.float64]
    used: NDArray[np.float64]
    seconds: float


class Kept:
    """The file of one detector at one size: a line of JSON for each photograph, after a line that says of what.

    A line that was being written when a process was killed is cut off and measured again. A photograph that has changed
    since is measured again too.

    Args:
        folder: for the file.
        detector: whose it is, by its name.
        sizes: in which photographs are looked at.
        least_score: down to which detections are kept.
    Raises:
        ValueError: naming file and line, if it holds something else.
        OSError: if it cannot be read or written.
    """

    def __init__(self, folder: Path, detector: Detector, sizes: TestSizes, least_score: float) -> None:
        text = json.dumps({"detector": detector.name, "least_score": least_score, **sizes.facts()})
        self.path = folder / f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.jsonl"
        self._seen: dict[str, tuple[list[int], Seen]] = {}
        if self.path.is_file():
            self._read(text)
        else:
            write_text(self.path, text + "\n")

    def find(self, name: str, stamp: list[int]) -> Seen | None:
        """Return what was found in a photograph; None if it is not known, or of a file with another stamp."""
        known = self._seen.get(name)
        return None if known is None or known[0] != stamp else known[1]

    def add(self, stream: IO[str], name: str, stamp: list[int], seen: Seen) -> None:
        """Keep what was found in a photograph."""
        values = {key: value.tolist() for key, value in seen._asdict().items() if key != "seconds"}
        stream.write(json.dumps({"photo": name, "stamp": stamp, "seconds": seen.seconds, **values}) + "\n")
        stream.flush()
        self._seen[name] = stamp, seen

    def _read(self, head: str) -> None:
        content = self.path.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            with self.path.open("r+b") as stream:
                stream.truncate(whole)
        lines = content[:whole].split(b"\n")[:-1]
        if not lines or lines[0] != head.encode():
            raise ValueError(f"{self.path}, line 1: not what this program writes there; delete the file")
        for number, line in enumerate(lines[1:], start=2):
            try:
                entry = json.loads(line)
                every, used = (_rows(entry[key]) for key in ("every", "used"))
                self._seen[str(entry["photo"])] = entry["stamp"], Seen(every, used, float(entry["seconds"]))
            except (ValueError, KeyError, TypeError, RecursionError) as error:
                raise ValueError(f"{self.path}, line {number}: damaged; delete the file to measure again") from error


def _rows(values: Any) -> NDArray[np.float64]:
    rows = np.array(values, np.float64).reshape(-1, _NUMBERS)
    if not np.isfinite(rows).all():
        raise ValueError("a number is not finite")
    return rows


def detect_all(
    photos: LabeledPhotos, detectors: Mapping[str, Detector], sizes: TestSizes, least_score: float, folder: Path
) -> dict[str, list[Seen]]:
    """Return what detectors find in photographs, those that are not known yet in turn, photograph by photograph.

    Args:
        photos: to look at.
        detectors: by the name of a column.
        sizes: in which photographs are looked at.
        least_score: down to which detections are kept.
        folder: of the files, which exists.
    Raises:
        ValueError: if a photograph cannot be read or a file is damaged.
        OSError: if a file cannot be written.
    """
    kept = {name: Kept(folder, detector, sizes, least_score) for name, detector in detectors.items()}
    found: dict[str, list[Seen]] = {name: [] for name in detectors}
    streams = {name: one.path.open("a", encoding="utf-8") for name, one in kept.items()}
    try:
        for index in tracked(range(len(photos)), "Detecting faces", len(photos), transient=True):
            name = photos.labels(index).name
            status = (photos.root / name).stat()
            stamp = [status.st_size, status.st_mtime_ns]
            image = None
            for column, detector in detectors.items():
                seen = kept[column].find(name, stamp)
                if seen is None:
                    image = photos.read(index).image if image is None else image
                    seen = _look(SizedDetector(detector, sizes), image, least_score)
                    kept[column].add(streams[column], name, stamp, seen)
                found[column].append(seen)
    finally:
        for stream in streams.values():
            stream.close()
    return found


def _look(detector: Detector, image: NDArray[np.uint8], least_score: float) -> Seen:
    start = time.perf_counter()
    used = detector.detect(image)
    seconds = time.perf_counter() - start
    return Seen(_array(detector.detect(image, least_score)), _array(used), seconds)


def _array(found: Sequence[Detection]) -> NDArray[np.float64]:
    """Return rows whose coordinates are edges, as labels have them; a detection has centers of pixels on integers."""
    rows = [[*(one.box + 0.5), one.score, *(one.points + 0.5).ravel()] for one in found]
    return np.round(np.array(rows, np.float64).reshape(-1, _NUMBERS), 5)


def as_faces(seen: Sequence[Seen], threshold: float | None) -> DetectorFaces:
    """Return what a detector found as the evaluation has it; a threshold takes the place of its usual one."""
    every = [_faces(one.every) for one in seen]
    if threshold is not None:
        return DetectorFaces(every, [one.above(threshold) for one in every])
    return DetectorFaces(every, [_faces(one.used) for one in seen])


def _faces(rows: NDArray[np.float64]) -> DetectedFaces:
    boxes = rows[:, :4].copy()
    boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2])  # a network may turn a tiny box inside out
    return DetectedFaces(Found(boxes, rows[:, 4]), rows[:, 5:].reshape(-1, 5, 2))


def read_folder(folder: Path, names: Sequence[str], threshold: float) -> DetectorFaces:
    """Return detections of any program in WIDER FACE's form: `<event>/<image>.txt` for each photograph, no points.

    Args:
        folder: of them.
        names: of the photographs.
        threshold: least score of what counts as in use.
    Raises:
        ValueError: naming file and line, as `read_predictions`.
    """
    every = []
    for name in names:
        rows = read_predictions(folder / Path(name).with_suffix(".txt"))
        boxes = np.concatenate([rows[:, :2], rows[:, :2] + np.maximum(rows[:, 2:4], 0)], axis=1)
        every.append(DetectedFaces(Found(boxes, rows[:, 4]), np.full((len(rows), 5, 2), np.nan)))
    return DetectorFaces(every, [one.above(threshold) for one in every])


def small_picture(path: Path, longest: int = 480) -> tuple[bytes, tuple[int, int]]:
    """Return a photograph as a JPEG file with a longer side of at most `longest`, and its own width and height."""
    image = read_image(path)
    height, width = image.shape[:2]
    factor = min(1.0, longest / max(height, width))
    sides = (max(1, round(width * factor)), max(1, round(height * factor)))
    small = cv2.resize(image, sides, interpolation=cv2.INTER_AREA)
    written, data = cv2.imencode(".jpg", cv2.cvtColor(small, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 80])
    assert written, "OpenCV could not encode an 8-bit image"
    return data.tobytes(), (width, height)
