"""A record file -> identity folders, with the bytes that the images have."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from datasets.conversion.encoding import to_checked, worked
from datasets.conversion.list_names import listed_names
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
from datasets.faces.image_kinds import suffix_of
from datasets.faces.paths import PathTable
from datasets.records.dataset import RecordDataset

# In a folder that this program wrote: only such a one is ever replaced.
_MARK = ".written-by-datasets-convert"
_RESULT = "result"


def records_to_folder(job: Job, names_from_list: bool = False) -> Outcome:
    """Write the images of a record file to `<job.output>/<identity>/<image><suffix>`.

    Bytes stay as they are, the suffix follows from them. An identity is named by its label in the file and an image by
    its key; with `names_from_list` both have the names in `.lst`, `<identity>/<file>`. What cannot be decoded is left
    out and listed.

    Interrupted, the same call goes on from the last of its checkpoints, which are CHECKPOINT images apart. After a
    power cut it must not: the last files may be empty, and `.<name>.converting` beside the output is to be removed.

    Raises:
        ValueError: if the source is no sound record file, a name in `.lst` is none, leads out of the folder or differs
            from another by case only, or the result exists.
        OSError: if the output cannot be written.
    """
    dataset = RecordDataset(job.source)
    stems = listed_names(dataset) if names_from_list else numbered_names(dataset)
    with open_workspace(job.output, plan(dataset, "folder", names_from_list)) as workspace:
        if workspace.published:
            return named_by_earlier_run(job.output)
        _refuse_existing(job)
        counts = _convert(workspace, dataset, stems, job)
        num_unreadable = counts["unreadable"]
        workspace.publish([(_RESULT, job.output), *moves_of_list(num_unreadable, job.output)])
    text = f"{job.output}: {counted(counts['written'], 'image')} of {counted(counts['identities'], 'identity')}"
    return Outcome(text, num_unreadable, unreadable_beside(job.output) if num_unreadable else None)


def numbered_names(dataset: RecordDataset) -> PathTable:
    """Return `<identity>/<key>` of each image, keys of one length, so that they sort as numbers do."""
    digits = len(str(int(dataset.keys.max())))
    pairs = zip(dataset.labels.tolist(), dataset.keys.tolist(), strict=True)
    return PathTable(dataset.root, (f"{dataset.class_names[label]}/{key:0{digits}d}" for label, key in pairs))


def _refuse_existing(job: Job) -> None:
    output = job.output
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return
    job.refuse_existing(output)
    if not (output / _MARK).is_file():
        raise ValueError(f"{output}: this program did not write it and does not replace it; remove it yourself")


def _convert(workspace: Workspace, dataset: RecordDataset, stems: PathTable, job: Job) -> dict[str, int]:
    result = workspace.folder / _RESULT
    result.mkdir(exist_ok=True)
    (result / _MARK).touch()
    # In the order of the labels, so that each folder is made and filled once.
    order = np.argsort(dataset.labels, kind="stable")
    with Journal(workspace, (UNREADABLE,), ("done", "written", "identities", "last", "unreadable")) as journal:
        counts, start = journal.counts, journal.counts["done"]
        with worked(dataset, order[start:], to_checked, job.jobs, f"Writing {job.output.name}") as payloads:
            for index, payload in zip(order[start:].tolist(), payloads, strict=True):
                counts["done"] += 1
                if payload.reason:
                    counts["unreadable"] += 1
                    list_unreadable(journal.files[UNREADABLE], payload)
                else:
                    _write(result, stems.relative(index), payload.data)
                    _count(counts, int(dataset.labels[index]))
                if counts["done"] % CHECKPOINT == 0:
                    journal.checkpoint()
        if not counts["written"]:
            raise ValueError(f"{job.source}: none of its {len(dataset)} images can be decoded")
        journal.checkpoint()
        return counts


def _write(result: Path, stem: str, data: bytes) -> None:
    file = result / f"{stem}{suffix_of(data)}"
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(data)


def _count(counts: dict[str, int], label: int) -> None:
    counts["written"] += 1
    if counts["last"] != label + 1:
        counts["last"] = label + 1
        counts["identities"] += 1
