"""Identity folders -> a record file in the layout of InsightFace's training sets.

Key 0 is the header record, images have the keys from 1 on, identity records those after them. Images are appended as
they come, so that an interrupted conversion goes on where it was; the header, which needs their number, is written
last over a placeholder of the same length.
"""

from __future__ import annotations

import os
from itertools import pairwise

import numpy as np

from datasets.conversion.encoding import face_work, worked
from datasets.conversion.outcome import (
    CHECKPOINT,
    UNREADABLE,
    Job,
    Outcome,
    list_unreadable,
    moves_of_list,
    named_by_earlier_run,
    plan,
    unreadable_beside,
)
from datasets.conversion.workspace import Journal, Workspace, open_workspace
from datasets.counted import counted
from datasets.faces.folder_scan import refuse_output_within
from datasets.faces.image_folder import ImageFolderDataset
from datasets.payloads import Payload
from datasets.records.format import MAX_EXACT, encode_record
from transforms.landmarks import IMAGE_SIZE

_REC, _IDX, _LST, _PROPERTY = "train.rec", "train.idx", "train.lst", "property"
_STARTS = "starts.txt"


def folder_to_records(job: Job, follow_links: bool = False) -> Outcome:
    """Write `train.rec`, `.idx`, `.lst` and `property` of a folder of identities into the folder `job.output`.

    Identities without a readable image drop out; the others have the labels 0, 1, ... in the order of their names. The
    lines of `.lst` are `1<TAB><identity>/<file><TAB>label`.

    Interrupted, the same call goes on from the last of its checkpoints, which are CHECKPOINT images apart.

    Raises:
        ValueError: if the source is no folder of identities, has too many images for float32 keys, holds the output,
            or has a name that a line cannot hold, none of its images can be read, or the result exists.
        OSError: if the output cannot be written.
    """
    refuse_output_within(job.source, job.output, "OUTPUT")
    dataset = ImageFolderDataset(job.source, follow_links=follow_links)
    _check(dataset)
    result = job.output / _REC
    with open_workspace(result, plan(dataset, "records", job.encoding)) as workspace:
        if workspace.published:
            return named_by_earlier_run(job.output)
        job.refuse_existing(result)
        counts = _convert(workspace, dataset, job)
        num_unreadable = counts["unreadable"]
        names = (_REC, _IDX, _LST, _PROPERTY)
        workspace.publish([*((name, job.output / name) for name in names), *moves_of_list(num_unreadable, job.output)])
    text = f"{job.output}: {counted(counts['written'], 'image')} of {counted(counts['identities'], 'identity')}"
    return Outcome(text, num_unreadable, unreadable_beside(job.output) if num_unreadable else None)


def _check(dataset: ImageFolderDataset) -> None:
    end = len(dataset) + len(dataset.class_names) + 1
    if end > MAX_EXACT:
        raise ValueError(
            f"{dataset.root}: {len(dataset)} images and {len(dataset.class_names)} identities need keys up to {end}, "
            f"but records store keys as float32, exact up to {MAX_EXACT}; make several files"
        )
    for index in range(len(dataset)):
        name = dataset.paths.relative(index)
        if any(character in name for character in "\t\n\r"):
            raise ValueError(f"{dataset.root}: a line of .lst cannot hold the name {name!r}; rename it")


def _convert(workspace: Workspace, dataset: ImageFolderDataset, job: Job) -> dict[str, int]:
    names, counts = (_REC, _IDX, _LST, _STARTS, UNREADABLE), ("done", "written", "identities", "last", "unreadable")
    with Journal(workspace, names, counts) as journal:
        records = _GrowingRecords(journal)
        todo = range(journal.counts["done"], len(dataset))
        with worked(dataset, todo, face_work(job.encoding), job.jobs, f"Writing {_REC}") as payloads:
            for index, payload in zip(todo, payloads, strict=True):
                records.add(payload, int(dataset.labels[index]), dataset.paths.relative(index))
                if (index + 1) % CHECKPOINT == 0:
                    journal.checkpoint()
        if not journal.counts["written"]:
            raise ValueError(f"{dataset.root}: none of its {len(dataset)} images can be read")
        journal.checkpoint()
        records.finish()
        journal.sync()
        (workspace.folder / _PROPERTY).write_text(
            f"{journal.counts['identities']},{IMAGE_SIZE},{IMAGE_SIZE}", encoding="utf-8"
        )
        return journal.counts


class _GrowingRecords:
    """A record file with `.idx` and `.lst` at the end of which images are added."""

    def __init__(self, journal: Journal) -> None:
        self._counts, self._files = journal.counts, journal.files
        if not self._counts["done"]:
            self._write(0, [0, 0], b"")

    def add(self, payload: Payload, source_label: int, name: str) -> None:
        """Append an image, or list it as unreadable."""
        counts = self._counts
        counts["done"] += 1
        if payload.reason:
            counts["unreadable"] += 1
            list_unreadable(self._files[UNREADABLE], payload)
            return
        counts["written"] += 1
        # Labels count the identities that have an image; `last` is 1 + the folder's label, 0 before the first.
        if counts["last"] != source_label + 1:
            counts["last"] = source_label + 1
            counts["identities"] += 1
            self._files[_STARTS].write(f"{counts['written']}\n".encode())
        label = counts["identities"] - 1
        self._write(counts["written"], label, payload.data)
        self._files[_LST].write(os.fsencode(f"1\t{name}\t{label}\n"))

    def finish(self) -> None:
        """Append the identity records and write the header."""
        end = self._counts["written"] + 1
        self._files[_STARTS].seek(0)
        bounds = [int(line) for line in self._files[_STARTS]] + [end]
        for number, pair in enumerate(pairwise(bounds)):
            self._write(end + number, pair, b"")
        rec = self._files[_REC]
        size = rec.tell()
        rec.seek(0)
        rec.write(encode_record(np.array([end, end + len(bounds) - 1]), b""))
        rec.seek(size)

    def _write(self, key: int, label: int | list[int] | tuple[int, int], payload: bytes) -> None:
        self._files[_IDX].write(f"{key}\t{self._files[_REC].tell()}\n".encode())
        self._files[_REC].write(encode_record(label, payload, key))
