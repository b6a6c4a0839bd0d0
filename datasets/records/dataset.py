"""Faces in a RecordIO file, as mxnet and InsightFace write them: `train.rec` with `train.idx` and `train.lst`."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from datasets.content_key import content_key
from datasets.faces.images import UnreadableImageError, decode_image, fit_image
from datasets.faces.paths import PathTable, open_regular
from datasets.records.file import Offsets, RecordFile
from datasets.records.format import Record, RecordError
from datasets.records.index import read_index, rebuild_index
from datasets.records.labels import Samples, find_samples
from datasets.records.sidecar import fingerprint, open_samples
from datasets.sample import Image, Sample

logger = logging.getLogger(__name__)


class RecordPaths(PathTable):
    """Where the images of a record file are, in the place of paths: `<file>, byte <offset>`.

    Args:
        record: the file.
        offsets: int64 [N].
    """

    def __init__(self, record: Path, offsets: Offsets) -> None:
        super().__init__(record.parent, ())
        self.record = record
        self.offsets = offsets

    def __len__(self) -> int:
        return len(self.offsets)

    def relative(self, index: int) -> str:
        """Return the place of one image, without the folder of the file."""
        return f"{self.record.name}, byte {self.offsets[index]}"

    def take(self, indices: NDArray[np.int64]) -> RecordPaths:
        """Return the chosen places in the order of `indices`."""
        return RecordPaths(self.record, self.offsets[indices])


class RecordDataset:
    """Faces in a record file, with the interface of `ImageFolderDataset`, by ascending key.

    The file is mapped, never read as a whole. Keys come from `.idx`, or from one scan where it is missing. Which
    records are images, and their labels, is found without decoding (see `find_samples`) and kept in a sidecar file (see
    `open_samples`). Forked processes share all of it; a pickled data set opens the same files again.

    Args:
        root: folder with `train.rec` or a single other `.rec` file, or such a file.
        transform: applied to every image that is read, uint8 [112, 112, 3] RGB to the same.
        swap_color_channel: the images hold BGR where their format says RGB: turn it.
    Attributes:
        labels: int64 [N], contiguous from 0.
        class_names: the number of each identity in the file.
        keys, offsets: int64 [N], key and first byte of each image's record.
        paths: `<file>, byte <offset>` of each image.
    Raises:
        ValueError: if there is no record file, or it (`RecordError`) or a file beside it is damaged.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        transform: Callable[[Image], Image] | None = None,
        *,
        swap_color_channel: bool = False,
    ) -> None:
        self.root = Path(root)
        self.transform = transform
        self.swap_color_channel = swap_color_channel
        self._open()
        single = int((np.bincount(self.labels) == 1).sum())
        if single:
            logger.warning("%s: %d of %d identities have one image only", self.root, single, len(self.class_names))

    def _open(self) -> None:
        path = _find_record_file(self.root)
        self._file = RecordFile(path)
        index_path, list_path = path.with_suffix(".idx"), path.with_suffix(".lst")
        try:
            self._sources = fingerprint((path, index_path, list_path))
        except OSError as error:
            raise RecordError(Path(error.filename or path), "", f"cannot be opened ({error.strerror})") from error

        def find() -> Samples:
            index = read_index(index_path, self._file) if index_path.exists() else rebuild_index(self._file)
            return find_samples(self._file, index, list_path)

        self.keys, self.offsets, self.labels, identities = open_samples(path, self._sources, find)
        self._file.expect_random_reads()
        _compare_with_property(path.with_name("property"), len(identities))
        self.class_names = [str(identity) for identity in identities.tolist()]
        self.paths = RecordPaths(path, self.offsets)
        transform = self.transform and content_key(self.transform)
        options = f"swap_color_channel={self.swap_color_channel} transform={transform}"
        self.decoding = f"{self._sources.hex()} {options}"

    def __getstate__(self) -> dict[str, object]:
        return {name: self.__dict__[name] for name in ("root", "transform", "swap_color_channel", "_sources")}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._open()
        if self._sources != state["_sources"]:
            raise RecordError(self._file.path, "", "it or a file beside it changed while it was in use")

    def __len__(self) -> int:
        return len(self.labels)

    def record(self, index: int) -> Record:
        """Return the whole record of an image, not decoded; raises RecordError."""
        return self._file.read(int(self.offsets[index]))

    def read(self, index: int) -> Image:
        """Return one image as uint8 [112, 112, 3] RGB.

        Raises:
            UnreadableImageError: if the record is damaged or its image cannot be decoded; names file and offset.
        """
        offset = int(self.offsets[index])
        try:
            payload = self._file.payload(offset)
            if not payload:
                raise UnreadableImageError(self._file.path, "the record holds no image")
            image = fit_image(decode_image(payload, self._file.path))
        except RecordError as error:
            raise UnreadableImageError(error.location, error.reason) from error
        except UnreadableImageError as error:
            # The place is put into words here, because most images are readable.
            raise UnreadableImageError(f"{self._file.path}, byte {offset}", error.reason) from error
        if self.swap_color_channel:
            image = np.ascontiguousarray(image[..., ::-1])
        return image if self.transform is None else self.transform(image)

    def __getitem__(self, index: int) -> Sample[Image, int]:
        return Sample(self.read(index), int(self.labels[index]), 0, None, index)


def _compare_with_property(path: Path, num_identities: int) -> None:
    """Warn where InsightFace's file of `identities,height,width` states another number: one of the two is not whole."""
    try:
        with open_regular(path) as stream:
            stated = stream.read(64).split(b",")[0].strip()
    except OSError:  # nobody needs it
        return
    if stated.isdigit() and int(stated) != num_identities:
        logger.warning("%s states %d identities, the records hold %d with images", path, int(stated), num_identities)


def _find_record_file(root: Path) -> Path:
    """Return `train.rec` of a folder, or the only record file of it, or the file itself."""
    try:
        if not root.is_dir():
            return root
        usual = root / "train.rec"
        found = [usual] if usual.exists() else sorted(root.glob("*.rec"))
    except OSError as error:
        raise RecordError(root, "", f"cannot be opened ({error.strerror})") from error
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise RecordError(root, "", f"expected train.rec or one other .rec file, found {names}")
    return found[0]
