"""Which records are images, and their labels: from identity records, a `.lst` file or the records' headers."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from datasets.records.file import Offsets, RecordFile
from datasets.records.format import MAX_EXACT, RecordError
from datasets.records.index import MAX_LABEL, Index, Keys, read_list

logger = logging.getLogger(__name__)

# So few headers that reading them costs nothing, so many that a list of another file does not pass.
_SPOT_CHECKS = 64


class Samples(NamedTuple):
    """The images of a record file, by ascending key.

    Attributes:
        keys, offsets: int64 [N].
        labels: int64 [N], contiguous from 0.
        identities: int64 [C], what the file calls each label: the number of the identity record, or the label as it is
            stored.
    """

    keys: Keys
    offsets: Offsets
    labels: NDArray[np.int64]
    identities: NDArray[np.int64]


def find_samples(file: RecordFile, index: Index, list_path: Path) -> Samples:
    """Return the images of a file and their labels, without decoding any.

    A record with key 0, two labels and no payload is a header: its labels are the key after the last image and the key
    after the last identity record. Identity records hold the first key of their images and the key after the last.
    Without such records the `.lst` file labels the images, else each image's own header does, by its first label.

    Raises:
        RecordError: if a label is not a whole number >= 0, identity records contradict each other or the keys, the
            header promises other numbers of records, the list is damaged, or no image is left.
    """
    ends = _read_header_record(file, index)
    if ends is None:
        return _from_list_or_headers(file, index, list_path)
    _check_complete(file, index, ends)
    if ends[1] > MAX_EXACT:
        return _from_list_or_headers(file, _images_before(file, index, ends[0]), list_path)
    images, identities = _between(index, 1, ends[0]), _between(index, *ends)
    if identities.keys.size:
        return _from_identities(file, images, identities)
    return _from_list_or_headers(file, images, list_path)


def _read_header_record(file: RecordFile, index: Index) -> tuple[int, int] | None:
    """Return the key after the last image and the key after the last identity record, None without a header record."""
    if index.keys[0] != 0:
        return None
    offset = int(index.offsets[0])
    record = file.read(offset)
    if record.payload or record.label.size < 2:
        return None
    labels = record.label[None, :2]
    _check_whole(file, np.array([offset]), labels)
    first, last = (int(label) for label in labels[0])
    if not 1 <= first <= last:
        raise RecordError(file.path, f"byte {offset}", f"a header record with the keys {first} and {last}")
    return first, last


def _check_complete(file: RecordFile, index: Index, ends: tuple[int, int]) -> None:
    """Refuse other numbers of images or identity records than a header record promises: the file may be cut off."""
    listing = file.path.with_suffix(".idx")
    found_in = f"{listing.name} lists" if listing.exists() else "the file holds"
    remedy = f"cut off, or of two versions; copy {file.path.name} and {listing.name} again"
    if ends[1] > MAX_EXACT:
        # Keys rounded to float32 tell no more than where the last record should be.
        last = int(index.keys[-1])
        if abs(last + 1 - ends[1]) > np.spacing(np.float32(ends[1])):
            reason = f"its header promises records up to key {ends[1] - 1}, {found_in} them up to {last}: {remedy}"
            raise RecordError(file.path, "", reason)
        return
    promised = (ends[0] - 1, ends[1] - ends[0])
    first, end = np.searchsorted(index.keys, [1, ends[0]]).tolist()
    found = (end - first, len(index.keys) - end)
    if found != promised:
        counts = [f"{images} images and {identities} identities" for images, identities in (promised, found)]
        raise RecordError(file.path, "", f"its header promises {counts[0]}, {found_in} {counts[1]}: {remedy}")


def _between(index: Index, start: int, end: int) -> Index:
    part = slice(*np.searchsorted(index.keys, [start, end]).tolist())
    return Index(index.keys[part], index.offsets[part])


def _images_before(file: RecordFile, index: Index, end_key: int) -> Index:
    """Return the images of a file whose keys float32 has rounded: the last one is found by its payload."""
    images = _between(index, 1, end_key + int(np.spacing(np.float32(end_key))))
    end = len(images.keys)
    while end and not file.read(int(images.offsets[end - 1])).payload:
        end -= 1
    return Index(images.keys[:end], images.offsets[:end])


def _from_identities(file: RecordFile, images: Index, identities: Index) -> Samples:
    """Label images by the key ranges of the identity records; identities without an image drop out."""
    ranges = file.headers(identities.offsets, num_labels=2).labels
    _check_whole(file, identities.offsets, ranges)
    first, last = ranges.astype(np.int64).T
    order = np.lexsort((last, first))
    wrong = (first < 1) | (first > last) | (last > identities.keys[0])
    wrong[order[1:]] |= first[order[1:]] < last[order[:-1]]
    if wrong.any():
        place = int(np.argmax(wrong))
        reason = f"an identity's keys {first[place]} up to {last[place]} are no range of its own"
        raise RecordError(file.path, f"byte {identities.offsets[place]}", reason)
    starts = np.searchsorted(images.keys, first)
    counts = np.searchsorted(images.keys, last) - starts
    # Every range has to begin where the one before it ends, the first at the first image, the last at the last one.
    ends = np.append(0, np.cumsum(counts[order]))
    gaps = np.flatnonzero(np.append(starts[order], len(images.keys)) != ends)
    if gaps.size:
        place = int(ends[gaps[0]])
        reason = f"the image with key {images.keys[place]} belongs to no identity record"
        raise RecordError(file.path, f"byte {images.offsets[place]}", reason)
    label = np.cumsum(counts > 0) - 1
    names = identities.keys[counts > 0] - identities.keys[0]
    return Samples(images.keys, images.offsets, np.repeat(label[order], counts[order]), names)


def _from_list_or_headers(file: RecordFile, images: Index, list_path: Path) -> Samples:
    if not images.keys.size:
        raise RecordError(file.path, "", "holds no image")
    if list_path.exists():
        values = read_list(list_path, images.keys)
        _spot_check(file, images, values, list_path)
    else:
        images, stored = _stored_labels(file, images)
        values = stored.astype(np.int64)
    identities = np.unique(values)
    return Samples(images.keys, images.offsets, np.searchsorted(identities, values), identities)


def _stored_labels(file: RecordFile, images: Index) -> tuple[Index, NDArray[np.float32]]:
    """Return those records that hold an image, and the first label in each header."""
    headers = file.headers(images.offsets)
    kept = headers.has_payload
    if not kept.any():
        raise RecordError(file.path, "", f"none of its {len(kept)} records holds an image")
    if not kept.all():
        logger.warning("%s: %d records without an image are left out", file.path, len(kept) - int(kept.sum()))
        images, headers = Index(images.keys[kept], images.offsets[kept]), headers.take(kept)
    _check_whole(file, images.offsets, headers.labels)
    return images, headers.labels[:, 0]


def _check_whole(file: RecordFile, offsets: Offsets, labels: NDArray[np.float32]) -> None:
    """Refuse labels [N, K] that are not whole numbers in [0, MAX_LABEL)."""
    wrong = ~((labels >= 0) & (labels < MAX_LABEL) & (labels == np.floor(labels)))
    if wrong.any():
        row, column = np.argwhere(wrong)[0]
        num = int(wrong.any(axis=1).sum())
        reason = (
            f"the label {labels[row, column]:g} is not a whole number from 0 to {MAX_LABEL - 1} ({num} such records)"
        )
        raise RecordError(file.path, f"byte {offsets[row]}", reason)


def _spot_check(file: RecordFile, images: Index, values: NDArray[np.int64], list_path: Path) -> None:
    """Warn where a list disagrees with the records: it may relabel them on purpose, or belong to another file."""
    places = np.unique(np.linspace(0, len(values) - 1, _SPOT_CHECKS).astype(np.int64))
    stored = file.headers(images.offsets[places]).labels[:, 0]
    differ = stored != values[places].astype(np.float32)
    if differ.any():
        first = int(np.argmax(differ))
        place = places[first]
        comparison = f"{values[place]} for key {images.keys[place]}, {stored[first]:g} in its record"
        logger.warning(
            "%s: %d of %d labels compared differ from those in %s (%s); the list is used",
            list_path, differ.sum(), len(places), file.path, comparison,
        )  # fmt: skip
