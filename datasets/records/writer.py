"""Writes RecordIO files, byte for byte as mxnet 1.9.1 does."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import ArrayLike

from datasets.records.format import MAX_EXACT, encode_record
from datasets.sampling.grouping import check_labels
from transforms.landmarks import IMAGE_SIZE


class RecordWriter:
    """Writes a record file and its `.idx`, as a context manager.

    The files get their names when the block ends without an error, complete; else nothing is left and files that had
    the names before stay.

    Args:
        path: the record file to write, `<name>.rec`; its folder must exist.
    Raises:
        OSError: if the folder cannot be written, now or later.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._folder = tempfile.TemporaryDirectory(prefix=f".{self.path.name}-", dir=self.path.parent)
        self._parts = {suffix: Path(self._folder.name) / suffix for suffix in ("rec", "idx")}
        self._rec = self._parts["rec"].open("wb")
        self._idx = self._parts["idx"].open("w", encoding="ascii", newline="\n")

    def write(self, key: int, label: ArrayLike, payload: bytes, id: int | None = None, id2: int = 0) -> None:
        """Append a record; see `encode_record`.

        Args:
            key: >= 0; the caller's duty is to use each once.
            id: None is the key, as InsightFace has it.
        Raises:
            ValueError: if the record cannot be encoded.
        """
        data = encode_record(label, payload, key if id is None else id, id2)
        self._idx.write(f"{key}\t{self._rec.tell()}\n")
        self._rec.write(data)

    def __enter__(self) -> RecordWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            for stream in (self._rec, self._idx):
                stream.close()
            if error is None:
                self._publish()
        finally:
            self._folder.cleanup()

    def _publish(self) -> None:
        index = self.path.with_suffix(".idx")
        # A reader rebuilds a missing index, but cannot know that one belongs to the file before.
        index.unlink(missing_ok=True)
        self._parts["rec"].replace(self.path)
        self._parts["idx"].replace(index)


def write_faces(
    folder: str | os.PathLike[str], payloads: Iterable[bytes], labels: ArrayLike, *, array_labels: bool = False
) -> None:
    """Write `train.rec`, `train.idx` and `property` in the layout of InsightFace's training sets.

    Key 0 is the header record, the images have the keys from 1 on, the identity records those after them.

    Args:
        folder: an existing folder.
        payloads: encoded images of 112 x 112, in the order of the labels; read one at a time.
        labels: [N] integers, 0 for the first images and rising by one from identity to identity.
        array_labels: write [identity, 0] instead of the identity, as InsightFace's aligned sets have it.
    Raises:
        ValueError: if the labels have another form, are not as many as the images, or too many for the float32 labels.
        OSError: if the folder cannot be written.
    """
    identities = check_labels(labels, "write_faces")
    steps = np.diff(identities, prepend=-1)
    if ((steps != 0) & (steps != 1)).any() or steps[0] != 1:
        raise ValueError("write_faces: labels must be contiguous from 0 and sorted; sort the images by identity")
    starts = np.append(np.flatnonzero(steps), identities.size) + 1
    num_images, num_identities = identities.size, len(starts) - 1
    end = num_images + 1 + num_identities
    if end > MAX_EXACT:
        raise ValueError(
            f"write_faces: {num_images} images and {num_identities} identities have keys up to {end}, but the records "
            f"store keys as float32, exact up to {MAX_EXACT}; write several files"
        )
    folder = Path(folder)
    with RecordWriter(folder / "train.rec") as writer:
        writer.write(0, [num_images + 1, end], b"")
        for key, (identity, payload) in enumerate(zip(identities.tolist(), payloads, strict=True), start=1):
            writer.write(key, [identity, 0] if array_labels else identity, payload)
        for number, bounds in enumerate(zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True)):
            writer.write(num_images + 1 + number, bounds, b"")
    (folder / "property").write_text(f"{num_identities},{IMAGE_SIZE},{IMAGE_SIZE}", encoding="utf-8")
