"""A folder of identities and a list of pairs -> InsightFace's `.bin`.

The file is a pickle of (list of bytes, list of bool), written opcode by opcode, so that a set may be larger than the
memory and an interrupted conversion goes on where it was. Protocol 3: `pickle.load(file, encoding="bytes")`, as
InsightFace's verification.py calls it, reads it in every Python 3.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path

import numpy as np

from datasets.benchmarks.pair_files import read_pairs
from datasets.benchmarks.pair_folder import PAIR_FILES
from datasets.benchmarks.pairs import Pairs
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
from datasets.faces.image_folder import ImageFolderDataset

_BIN = "pairs.bin"
# Opcodes of pickle: protocol 3, an empty list, the mark from which APPENDS takes its items, and so on.
_PROTOCOL, _LIST, _MARK, _APPENDS, _BYTES, _FALSE, _TRUE, _PAIR, _STOP = (
    b"\x80\x03", b"]", b"(", b"e", b"B", b"\x89", b"\x88", b"\x86", b".",
)  # fmt: skip


def folder_to_bin(job: Job, pairs_file: Path | None = None) -> Outcome:
    """Write the pairs of a folder of identities to the file `job.output`.

    With an image that cannot be read the set would be another protocol: then the list of all such images is written,
    and no set.

    Interrupted, the same call goes on from the last of its checkpoints, which are CHECKPOINT images apart.

    Args:
        job: its output ends in `.bin`.
        pairs_file: see `read_pairs`; None is pairs.txt or pairs.csv in the source.
    Raises:
        ValueError: if the source is no folder of identities, there is no list of pairs or a line of it is wrong, the
            output has another suffix, or exists.
        OSError: if the output cannot be written.
    """
    if job.output.suffix != ".bin":
        raise ValueError(f"{job.output}: the name of a verification file ends in .bin")
    dataset = ImageFolderDataset(job.source)
    pairs = read_pairs(pairs_file or _find_pairs(job.source), dataset)
    members = np.stack([pairs.first, pairs.second], axis=1).ravel()
    digest = plan(dataset, "bin", job.encoding, members.tobytes(), pairs.issame.tobytes())
    with open_workspace(job.output, digest) as workspace:
        if workspace.published:
            return named_by_earlier_run(job.output)
        job.refuse_existing(job.output)
        num_unreadable = _convert(workspace, dataset, members, pairs, job)
        moves = moves_of_list(num_unreadable, job.output)
        workspace.publish(moves if num_unreadable else [(_BIN, job.output)])
    if num_unreadable:
        text = f"{job.output}: not written, because its pairs need images that cannot be read"
        return Outcome(text, num_unreadable, unreadable_beside(job.output))
    return Outcome(f"{job.output}: {counted(len(pairs.issame), 'pair')}, {int(pairs.issame.sum())} of them genuine")


def _find_pairs(folder: Path) -> Path:
    found = [folder / name for name in PAIR_FILES if (folder / name).is_file()]
    if not found:
        raise ValueError(f"{folder}: it has no {' or '.join(PAIR_FILES)}; give the list with --pairs")
    return found[0]


def _convert(workspace: Workspace, dataset: ImageFolderDataset, members: np.ndarray, pairs: Pairs, job: Job) -> int:
    """Write the set into the workspace and return how many images cannot be read."""
    with Journal(workspace, (_BIN, UNREADABLE), ("done",)) as journal:
        file, counts, start = journal.files[_BIN], journal.counts, journal.counts["done"]
        unreadable = journal.files[UNREADABLE]
        # An image may be in many pairs and is listed once.
        unreadable.seek(0)
        listed = {os.fsdecode(line.split(b"\t")[0]) for line in unreadable}
        if not start:
            file.write(_PROTOCOL + _LIST + _MARK)
        with worked(dataset, members[start:], face_work(job.encoding), job.jobs, job.output.name) as payloads:
            for payload in payloads:
                counts["done"] += 1
                if payload.reason and payload.location not in listed:
                    listed.add(payload.location)
                    list_unreadable(unreadable, payload)
                file.write(_BYTES + struct.pack("<I", len(payload.data)) + payload.data)
                if counts["done"] % CHECKPOINT == 0:
                    journal.checkpoint()
        journal.checkpoint()
        answers = b"".join(_TRUE if answer else _FALSE for answer in pairs.issame.tolist())
        file.write(_APPENDS + _LIST + _MARK + answers + _APPENDS + _PAIR + _STOP)
        journal.sync()
        return len(listed)
