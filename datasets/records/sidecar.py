"""What was found out about a record file, kept beside it or in the user's cache folder, so that it opens at once."""

from __future__ import annotations

import hashlib
import logging
import mmap
import os
import struct
import tempfile
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from datasets.benchmarks.cache import cache_folder
from datasets.faces.paths import open_regular
from datasets.records.labels import Samples

logger = logging.getLogger(__name__)

SUFFIX = ".maskwise-index"
# Raised whenever the same files would give other samples, or the layout below is another.
_VERSION = 2
_END_BYTES = 2**16
# CRC-32 of all bytes that follow it, version, fingerprint of the sources, number of images, number of identities.
_HEAD = struct.Struct("<II32sqq")
_CHECKED_FROM = 4


def fingerprint(files: Iterable[Path]) -> bytes:
    """Return 32 bytes that follow name, size, time and a checksum of both ends of each file that exists.

    A change between the ends that keeps the size and the time is not seen: reading a whole record file takes minutes.

    Raises:
        OSError: if a file cannot be read.
    """
    states = [_state(file) for file in files if file.exists()]
    return hashlib.sha256(repr((_VERSION, states)).encode()).digest()


def open_samples(record: Path, sources: bytes, find: Callable[[], Samples]) -> Samples:
    """Return the samples of a record file from its sidecar, else from `find`, and then leave a sidecar.

    The sidecar lies beside the record file; where that cannot be written, in the user's cache folder; and where neither
    can, one warning says so and the samples stay in memory. It appears complete or not at all.

    Args:
        record: the record file.
        sources: fingerprint of all files that the samples depend on; a sidecar of others is not used.
    """
    record_bytes = record.stat().st_size
    # Two links to one file share the sidecar of the cache folder.
    key = hashlib.sha256(os.fsencode(record.resolve())).hexdigest()[:16]
    places = (record.with_suffix(SUFFIX), cache_folder() / "records" / f"{record.stem}-{key}{SUFFIX}")
    for place in places:
        if (samples := _load(place, sources, record_bytes)) is not None:
            return samples
    samples = find()
    for place in places:
        try:
            _save(samples, sources, place)
        except OSError as error:
            logger.info("%s: cannot be written (%s)", place, error.strerror)
        else:
            # Mapped instead of kept: processes share the pages, and the system may drop them.
            return _load(place, sources, record_bytes) or samples
    logger.warning("%s: cannot keep its index in %s or %s; every run will find it again", record, *places)
    return samples


def _state(file: Path) -> tuple[str, int, int, int]:
    status = file.stat()
    with open_regular(file) as stream:
        checksum = zlib.crc32(stream.read(_END_BYTES))
        stream.seek(max(0, status.st_size - _END_BYTES))
        checksum = zlib.crc32(stream.read(_END_BYTES), checksum)
    return file.name, status.st_size, status.st_mtime_ns, checksum


def _save(samples: Samples, sources: bytes, place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    head = _HEAD.pack(0, _VERSION, sources, len(samples.keys), len(samples.identities))[_CHECKED_FROM:]
    parts: list[bytes | memoryview] = [head, *(np.ascontiguousarray(array, "<i8").data for array in samples)]
    checksum = 0
    for part in parts:
        checksum = zlib.crc32(part, checksum)
    descriptor, name = tempfile.mkstemp(prefix=f".{place.name}-", dir=place.parent)
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(checksum.to_bytes(_CHECKED_FROM, "little"))
            for part in parts:
                stream.write(part)
        # For whoever reads the data, which a temporary file is not.
        temporary.chmod(0o644)
        # Not synced: after a power cut the checksum tells.
        temporary.replace(place)
    finally:
        temporary.unlink(missing_ok=True)


def _load(place: Path, sources: bytes, record_bytes: int) -> Samples | None:
    """Return the samples mapped from a sidecar, None if there is none, or one that is damaged or of other files."""
    try:
        with open_regular(place) as stream:
            head = stream.read(_HEAD.size)
            if len(head) < _HEAD.size:
                return None
            mapped = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError:
        return None
    checksum, version, stated, num, num_identities = _HEAD.unpack(head)
    num_bytes = _HEAD.size + 8 * (3 * num + num_identities)
    fits = version == _VERSION and stated == sources and num >= 1 and num_identities >= 1 and num_bytes == len(mapped)
    # All of it, at 2 GB/s: a page that a crash left empty, or another's, would send images to other labels.
    if not fits or zlib.crc32(memoryview(mapped)[_CHECKED_FROM:]) != checksum:
        return None
    words = np.frombuffer(mapped, "<i8", offset=_HEAD.size)
    samples = Samples(words[:num], words[num : 2 * num], words[2 * num : 3 * num], words[3 * num :])
    return samples if _is_possible(samples, record_bytes) else None


def _is_possible(samples: Samples, record_bytes: int) -> bool:
    """Return whether offsets and labels could be those of a record file, whoever wrote them."""
    keys, offsets, labels, identities = samples
    inside = offsets.min() >= 0 and offsets.max() < record_bytes and not (offsets % 4).any()
    return bool(inside and keys.min() >= 0 and labels.min() >= 0 and labels.max() < len(identities))
