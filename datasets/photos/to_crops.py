"""Photographs -> aligned crops with a table, resumable and in any number of processes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import NamedTuple, Protocol

from datasets.conversion.encoding import Encoding, encode
from datasets.conversion.workspace import Journal, Workspace, open_workspace
from datasets.counted import counted
from datasets.faces.images import UnreadableImageError, decode_image
from datasets.faces.paths import PathTable
from datasets.parallel import ordered_results
from datasets.payloads import Payload
from datasets.photos import table
from datasets.photos.aligned import ALIGNED, CENTER, STATUSES, UNREADABLE, Aligned, Finder, align_with, center_crop
from datasets.photos.doubtful import write_sheet
from datasets.photos.given_points import GivenPoints
from datasets.photos.sources import Photographs, Task
from datasets.progress import tracked
from system.files import write_text
from transforms import IMAGE_SIZE, template_points

TABLE, RECORD = "alignment.csv", "alignment.json"
# Photographs between two checkpoints, half a minute of work.
CHECKPOINT = 256

_RESULT, _SHEET = "result", "doubtful.png"
_VERSION = 1  # raised whenever the same photographs and options would give another result
_RETRIED, _SEVERAL = "retried", "several"


class Choice(Protocol):
    """A detector before it is opened: hashable and small, so that every process opens its own, once."""

    def load(self) -> Finder:
        """Return the detector of this process."""


@dataclass(frozen=True)
class AlignJob:
    """One alignment.

    Attributes:
        source: see `Photographs`.
        output: folder for the crops.
        detector: which one.
        size: side of the crops, a multiple of 112 or 128.
        fallback: whether what cannot be aligned is cut out of the middle.
        jobs: processes, >= 1; the result does not depend on them.
        overwrite: whether a finished result is replaced.
    """

    source: Path | PathTable
    output: Path
    detector: Choice
    size: int = IMAGE_SIZE
    fallback: bool = False
    jobs: int = 1
    overwrite: bool = False

    @property
    def root(self) -> Path:
        """What the source is called in messages."""
        return self.source.root if isinstance(self.source, PathTable) else self.source


class AlignOutcome(NamedTuple):
    """What an alignment came to.

    Attributes:
        counts: photographs by status, and how many were "retried" or showed "several" faces.
        detector: its name.
        first_failure: path and reason of the first one without a crop, "" if there is none.
        sheet: picture of the doubtful ones, None if there are none.
        left_out: what else lay in the folder, in words.
    """

    counts: dict[str, int]
    detector: str
    first_failure: str = ""
    sheet: Path | None = None
    left_out: str = ""

    @property
    def num_failed(self) -> int:
        """Photographs that are not aligned, those cut out of the middle among them."""
        return sum(self.counts[status] for status in STATUSES if status != ALIGNED)


class _Work(NamedTuple):
    image: bytes  # PNG, empty without a crop
    aligned: Aligned  # without the crop


def align_photographs(job: AlignJob) -> AlignOutcome:
    """Write `<job.output>/<path of the photograph>.png` of every photograph whose face can be aligned.

    `alignment.csv` in it has a row for every photograph, `alignment.json` what was done; `<job.output>.doubtful.png`
    shows the doubtful ones. Interrupted, the same call goes on.

    Raises:
        ValueError: if there is no photograph, the output exists, the one photograph of a source cannot be aligned, or
            the detector cannot be opened.
        OSError: if the output cannot be written.
    """
    photographs = Photographs(job.source)
    finder = job.detector.load()
    if isinstance(finder, GivenPoints):
        finder.check_count(len(photographs))
    refuse_within(job.root, job.output)
    with open_workspace(
        job.output, f"{_VERSION} {job.size} {job.fallback} {finder.name} {photographs.state()}"
    ) as space:
        if not space.published:
            refuse_existing(job.output, RECORD, job.overwrite)
            _convert(space, photographs, job, finder.name)
    return _read_outcome(job, photographs, finder.name)


def sheet_beside(output: Path) -> Path:
    """Return where the picture of the doubtful photographs of a result lies."""
    return output.with_name(f"{output.name}.{_SHEET}")


def refuse_within(source: Path, output: Path) -> None:
    """Raise a ValueError if an output lies in the folder of its photographs."""
    if source.is_dir() and output.resolve().is_relative_to(source.resolve()):
        raise ValueError(f"{output} lies in {source}, whose photographs it would join; give another output")


def refuse_existing(output: Path, record: str, overwrite: bool) -> None:
    """Raise a ValueError if an output is there that may not be replaced: what has no such record never."""
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return
    if not (output / record).is_file():
        raise ValueError(f"{output}: this program did not write it and does not replace it; give another output")
    if not overwrite:
        raise ValueError(f"{output} exists; give --overwrite to replace it, or another output")


def _convert(space: Workspace, photographs: Photographs, job: AlignJob, detector: str) -> None:
    result = space.folder / _RESULT
    result.mkdir(exist_ok=True)
    counted_things = ("done", _RETRIED, _SEVERAL, *STATUSES)
    with Journal(space, (f"{_RESULT}/{TABLE}",), counted_things) as journal:
        rows, counts = journal.files[f"{_RESULT}/{TABLE}"], journal.counts
        if not counts["done"]:
            rows.write(table.heading())
        start = counts["done"]
        crops = list(photographs.crop_names())
        with ordered_results(partial(_align_task, job=job), photographs.tasks(start), job.jobs) as results:
            work = tracked(chain.from_iterable(results), f"Aligning {job.root.name}", len(photographs) - start)
            for place, (png, aligned) in enumerate(work, start=start):
                if photographs.is_single and not png:
                    raise ValueError(f"{job.root}: {aligned.reason}")
                if png:
                    _write(result / crops[place], png)
                rows.write(table.row(photographs.names.relative(place), aligned, detector, crops[place] if png else ""))
                _count(counts, aligned)
                if counts["done"] % CHECKPOINT == 0:
                    journal.checkpoint()
        journal.checkpoint()
    _publish(space, photographs, job, detector, counts)


def _publish(space: Workspace, photographs: Photographs, job: AlignJob, detector: str, counts: dict[str, int]) -> None:
    result, moves = space.folder / _RESULT, [(_RESULT, job.output)]
    if write_sheet(space.folder / _SHEET, result / TABLE, photographs, result):
        moves.append((_SHEET, sheet_beside(job.output)))
    else:
        sheet_beside(job.output).unlink(missing_ok=True)
    record = {
        "schema": _VERSION,
        "detector": detector,
        "size": job.size,
        "template": template_points(job.size).round(4).tolist(),
        "fallback": CENTER if job.fallback else None,
        "counts": counts,
    }
    write_text(result / RECORD, json.dumps(record, indent=2) + "\n")
    space.publish(moves)


def _align_task(task: Task, job: AlignJob) -> list[_Work]:
    """Align some photographs; runs in any process."""
    finder = job.detector.load()
    return list(_works(task, finder, job))


def _works(task: Task, finder: Finder, job: AlignJob) -> Iterator[_Work]:
    for number, (payload, name) in enumerate(zip(task.portion.read(), task.names, strict=True)):
        aligned = _align(payload, name, task.place + number, finder, job)
        png = b"" if aligned.crop is None else encode(aligned.crop, Encoding())
        yield _Work(png, aligned._replace(crop=None))


def _align(payload: Payload, name: str, place: int, finder: Finder, job: AlignJob) -> Aligned:
    if payload.reason:
        return Aligned(UNREADABLE, reason=payload.reason)
    try:
        image = decode_image(payload.data, payload.location)
    except UnreadableImageError as error:
        return Aligned(UNREADABLE, reason=error.reason)
    aligned = align_with(finder, image, job.size, name, place)
    if aligned.status == ALIGNED or not job.fallback:
        return aligned
    return aligned._replace(
        status=CENTER, crop=center_crop(image, job.size), reason=f"the middle is cut out: {aligned.reason}"
    )


def _write(file: Path, png: bytes) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(png)


def _count(counts: dict[str, int], aligned: Aligned) -> None:
    counts["done"] += 1
    counts[aligned.status] += 1
    if aligned.status == ALIGNED:
        counts[_RETRIED] += aligned.look not in ("as is", "given")
        counts[_SEVERAL] += aligned.num_faces > 1


def _read_outcome(job: AlignJob, photographs: Photographs, detector: str) -> AlignOutcome:
    counts = json.loads((job.output / RECORD).read_text(encoding="utf-8"))["counts"]
    failed = next((row for row in table.read_rows(job.output / TABLE) if row["status"] != ALIGNED), None)
    sheet = sheet_beside(job.output)
    return AlignOutcome(
        counts,
        detector,
        "" if failed is None else f"{failed['path']}: {failed['reason']}",
        sheet if sheet.is_file() else None,
        str(photographs.left_out) if photographs.left_out else "",
    )


def summary(outcome: AlignOutcome) -> list[str]:
    """Return what an alignment came to, in lines."""
    counts = outcome.counts
    first = f"{counts[ALIGNED]} of {counted(counts['done'], 'photograph')} aligned by {outcome.detector}"
    if counts[_RETRIED]:
        first += f", {counts[_RETRIED]} of them at a second look or later"
    if counts[_SEVERAL]:
        first += f", {counts[_SEVERAL]} with several faces (the large one near the center is taken)"
    lines = [first]
    others = [f"{counts[status]} {status}" for status in STATUSES if status != ALIGNED and counts[status]]
    if others:
        lines.append(f"not aligned: {', '.join(others)}; the first: {outcome.first_failure}")
    if outcome.left_out:
        lines.append(f"not looked at: {outcome.left_out}")
    return lines
