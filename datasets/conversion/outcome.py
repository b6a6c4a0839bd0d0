"""What every direction of a conversion is told and tells."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

from datasets.conversion.encoding import Encoding
from datasets.faces.image_folder import ImageFolderDataset
from datasets.payloads import Payload
from datasets.records.dataset import RecordDataset
from system.terminal import escaped

# Images between two checkpoints, some seconds of work.
CHECKPOINT = 4096
UNREADABLE = "unreadable.tsv"

# Raised whenever the same source and options would give another result.
_VERSION = 1


@dataclass(frozen=True)
class Job:
    """One conversion.

    Attributes:
        source, output: paths.
        encoding: of images that cannot keep their bytes.
        jobs: processes, >= 1; the result does not depend on them.
        overwrite: whether a finished result is replaced.
    """

    source: Path
    output: Path
    encoding: Encoding
    jobs: int = 1
    overwrite: bool = False

    def refuse_existing(self, result: Path) -> None:
        """Raise ValueError if a finished result is there and may not be replaced."""
        if result.exists() and not self.overwrite:
            raise ValueError(f"{result} exists; give --overwrite to replace it, or another output")


class Outcome(NamedTuple):
    """What a conversion came to.

    Attributes:
        text: one line for the user.
        num_unreadable: images that could not be read.
        unreadable: file that lists them, None if there are none.
    """

    text: str
    num_unreadable: int = 0
    unreadable: Path | None = None


def plan(dataset: ImageFolderDataset | RecordDataset, *options: object) -> str:
    """Return hex digits that change when the images of a data set or the options of a conversion change.

    Files count by name, size and time.
    """
    digest = hashlib.sha256(f"{_VERSION} {options} {dataset.decoding}".encode())
    if isinstance(dataset, ImageFolderDataset):
        for index in range(len(dataset)):
            name = dataset.paths.relative(index)
            digest.update(os.fsencode(f"{name}\0{_state(f'{dataset.root}/{name}')}\0"))
    return digest.hexdigest()


def _state(file: str) -> str:
    try:
        # Not a Path: it is asked for millions of files.
        status = os.stat(file)  # noqa: PTH116
    except OSError:
        return "missing"
    return f"{status.st_size} {status.st_mtime_ns}"


def list_unreadable(file: BinaryIO, payload: Payload) -> None:
    """Append an image that cannot be read to a list: where it is, a tab, the reason."""
    # A file name may hold anything but must not end the line.
    file.write(f"{escaped(payload.location)}\t{escaped(payload.reason)}\n".encode())


def unreadable_beside(result: Path) -> Path:
    """Return where the list of a result's unreadable images lies."""
    return result.with_name(f"{result.name}.{UNREADABLE}")


def moves_of_list(num_unreadable: int, result: Path) -> list[tuple[str, Path]]:
    """Return the move that publishes the list of unreadable images; without any, remove an earlier result's list."""
    place = unreadable_beside(result)
    if num_unreadable:
        return [(UNREADABLE, place)]
    place.unlink(missing_ok=True)
    return []


def named_by_earlier_run(result: Path) -> Outcome:
    """Return the outcome where an earlier run was interrupted while it gave its result, or its list, their names."""
    place = unreadable_beside(result)
    text = f"{result}: an earlier run had finished it but for its name; it is complete now"
    if not place.exists():
        return Outcome(text)
    with place.open("rb") as lines:
        return Outcome(text if result.exists() else f"{result}: not written", sum(1 for _ in lines), place)
