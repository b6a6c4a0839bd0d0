"""Identity folders or records -> a cache of decoded images, see `datasets.arrays.format`.

Shards are written one after the other, in the random order that they keep. Every few seconds a note says how far they
are; an interrupted conversion goes on from there.
"""

from __future__ import annotations

import errno
import os
import shutil
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from datasets.arrays.dataset import damaged_files, warn_beyond_memory
from datasets.arrays.format import (
    FILES,
    IDENTITIES,
    IMAGE_BYTES,
    LABELS,
    MANIFEST,
    MISSING,
    NAMES,
    ORIGINALS,
    SHARD_IMAGES,
    Manifest,
    file_crc,
    read_manifest,
    shard_header,
    shard_name,
)
from datasets.conversion import outcome
from datasets.conversion.encoding import worked
from datasets.conversion.outcome import CHECKPOINT, Job, Outcome, list_unreadable, moves_of_list, plan
from datasets.conversion.workspace import Journal, Workspace, open_workspace
from datasets.counted import counted
from datasets.faces.folder_scan import refuse_output_within
from datasets.faces.image_folder import ImageFolderDataset
from datasets.payloads import Payload, Portion, decode_payload
from datasets.records.dataset import RecordDataset
from system.files import naming, replacing, write_text
from system.memory import gigabytes
from system.terminal import escaped

Source = ImageFolderDataset | RecordDataset

_RESULT, _CRCS = "result", "shards.txt"
_ORDER_STREAM = (0, 7)
_MARGIN_BYTES = 2**20  # the manifest, and what a file system needs for itself
_CANNOT_RESERVE = (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS, errno.ENOTSUP)


def images_to_arrays(
    job: Job, shard_images: int = SHARD_IMAGES, seed: int = 0, *, follow_links: bool = False
) -> Outcome:
    """Decode the images of a folder of identities, or of a record file, into the folder `job.output`.

    Interrupted, the same call goes on from the last of its checkpoints, CHECKPOINT images apart. A finished cache of
    the same images is compared with its checksums; shards that are damaged are made again.

    Args:
        job: what to convert.
        shard_images: of every shard but the last.
        seed: of the order.
        follow_links: follow links in a folder of identities that lead out of it.
    Raises:
        ValueError: if the source is neither, holds the output, none of its images can be read, the disk has not the
            room, or a cache of other images is there.
        OSError: if the output cannot be written.
    """
    dataset: Source
    if job.source.suffix == ".rec" or any(job.source.glob("*.rec")):
        dataset = RecordDataset(job.source)
    else:
        refuse_output_within(job.source, job.output, "OUTPUT")
        dataset = ImageFolderDataset(job.source, follow_links=follow_links)
    order = np.random.default_rng((seed, *_ORDER_STREAM)).permutation(len(dataset))
    cache = _Cache(dataset, order, shard_images, plan(dataset, "arrays", shard_images, seed))
    if job.output.exists() and not job.overwrite:
        return _kept(cache, job)
    with open_workspace(job.output, cache.plan) as workspace:
        if workspace.published:
            return outcome.named_by_earlier_run(job.output)
        # Replaced is only what is a cache.
        if job.output.exists() and not (job.output / MANIFEST).is_file():
            raise ValueError(f"{job.output} exists and is no cache of decoded images; give another output")
        refuse_full_disk(job.output, len(dataset), workspace.folder)
        warn_beyond_memory(job.output, len(dataset))
        num_unreadable = _convert(workspace, cache, job)
        workspace.publish([(_RESULT, job.output), *moves_of_list(num_unreadable, job.output)])
    num = len(dataset)
    text = f"{job.output}: {counted(num, 'image')} of {counted(len(dataset.class_names), 'identity')}"
    place = outcome.unreadable_beside(job.output) if num_unreadable else None
    return Outcome(f"{text} in {counted(-(-num // shard_images), 'shard')}", num_unreadable, place)


def refuse_full_disk(output: Path, num_images: int, workspace: Path) -> None:
    """Refuse a cache that cannot fit on its disk, before anything of it is written.

    Args:
        output: of the cache; its folder exists.
        num_images: that it will hold.
        workspace: where it grows, with what an interrupted run has written.
    Raises:
        ValueError: if there is too little room.
    """
    written = sum(path.stat().st_blocks * 512 for path in workspace.rglob("*.npy") if hasattr(path.stat(), "st_blocks"))
    needed = max(0, num_images * (IMAGE_BYTES + 64) + _MARGIN_BYTES - written)
    free = shutil.disk_usage(workspace).free
    if needed > free:
        raise ValueError(
            f"{output}: {counted(num_images, 'image')} need {gigabytes(needed)} decoded, and its disk has "
            f"{gigabytes(free)} free; give an output on another disk, or keep records (--to records), a sixth of it"
        )


class _Cache:
    """The cache that is to be written.

    Attributes:
        dataset: the source.
        order: int64 [N], position in it of each image of the cache.
        shard_images: of every shard but the last.
        plan: hex digits that follow all of it.
    """

    def __init__(self, dataset: Source, order: NDArray[np.int64], shard_images: int, digest: str) -> None:
        self.dataset = dataset
        self.order = order
        self.shard_images = shard_images
        self.plan = digest

    def rows(self, shard: int) -> int:
        """Return the images of a shard."""
        return min(self.shard_images, len(self.order) - shard * self.shard_images)

    def identity_names(self) -> Iterator[str]:
        """Yield the names of the identities."""
        yield from self.dataset.class_names

    def image_names(self) -> Iterator[str]:
        """Yield the names of the images in the cache's order."""
        return (self.dataset.paths.relative(int(index)) for index in self.order)


def to_pixels(portion: Portion) -> list[Payload]:
    """Return images as the bytes of their pixels, uint8 [112, 112, 3] RGB, or the reason why there are none."""
    payloads = []
    for payload in portion.read():
        image, reason = decode_payload(payload)
        payloads.append(Payload(payload.location, b"" if image is None else image.tobytes(), reason))
    return payloads


def _convert(workspace: Workspace, cache: _Cache, job: Job) -> int:
    """Write the cache into the workspace and return the number of images that cannot be read."""
    result, num = workspace.folder / _RESULT, len(cache.order)
    result.mkdir(exist_ok=True)
    names, counts = (outcome.UNREADABLE, MISSING, _CRCS), ("done", "unreadable", "crc")
    with Journal(workspace, names, counts) as journal:
        if not _is_whole(result, cache, journal.counts["done"]):
            journal.counts.update(dict.fromkeys(counts, 0))  # a power cut took what was noted
            for file in journal.files.values():
                file.truncate(0)
                file.seek(0)
        todo = cache.order[journal.counts["done"] :]
        with worked(cache.dataset, todo, to_pixels, job.jobs, "Writing arrays") as payloads:
            _Writer(result, cache, journal).write(payloads)
        if journal.counts["unreadable"] == num:
            raise ValueError(f"{job.source}: none of its {num} images can be read")
        journal.files[_CRCS].seek(0)
        crcs = [int(line) for line in journal.files[_CRCS]]
        num_unreadable = journal.counts["unreadable"]
    shutil.copyfile(workspace.folder / MISSING, result / MISSING)
    _write_small_files(result, cache, crcs)
    return num_unreadable


class _Writer:
    """Appends pixels to shards, and a note of how far they are."""

    def __init__(self, folder: Path, cache: _Cache, journal: Journal) -> None:
        self._folder = folder
        self._cache = cache
        self._journal = journal

    def write(self, payloads: Iterator[Payload]) -> None:
        """Write the images from where the note ends to the last."""
        counts = self._journal.counts
        while counts["done"] < len(self._cache.order):
            shard, row = divmod(counts["done"], self._cache.shard_images)
            path, rows = self._folder / shard_name(shard), self._cache.rows(shard)
            with naming(path), _open_shard(path, rows) as file:
                if not row:
                    counts["crc"] = zlib.crc32(shard_header(rows))
                file.seek(len(shard_header(rows)) + row * IMAGE_BYTES)
                self._fill(file, payloads, rows - row)

    def _fill(self, file: BinaryIO, payloads: Iterator[Payload], num: int) -> None:
        """Write the following images of one shard."""
        counts, files = self._journal.counts, self._journal.files
        for left in range(num - 1, -1, -1):
            payload = next(payloads)
            if payload.reason:
                files[MISSING].write(f"{counts['done']}\t{escaped(payload.reason)}\n".encode())
                list_unreadable(files[outcome.UNREADABLE], payload)
                counts["unreadable"] += 1
            pixels = payload.data or bytes(IMAGE_BYTES)
            file.write(pixels)
            counts["crc"] = zlib.crc32(pixels, counts["crc"])
            counts["done"] += 1
            if left == 0:
                files[_CRCS].write(f"{counts['crc']}\n".encode())
            if left == 0 or counts["done"] % CHECKPOINT == 0:
                file.flush()
                os.fsync(file.fileno())
                self._journal.checkpoint()


def _open_shard(path: Path, rows: int) -> BinaryIO:
    """Open a shard of full size, its room on the disk reserved where the system can."""
    header = shard_header(rows)
    size = len(header) + rows * IMAGE_BYTES
    file = path.open("r+b" if path.exists() else "w+b")
    try:
        file.truncate(size)
        if hasattr(os, "posix_fallocate"):
            try:
                os.posix_fallocate(file.fileno(), 0, size)
            except OSError as error:
                if error.errno not in _CANNOT_RESERVE:
                    raise
        file.write(header)
    except BaseException:
        file.close()
        raise
    return file


def _is_whole(folder: Path, cache: _Cache, done: int) -> bool:
    """Return whether the shards are there that so many images are in."""
    return all(
        (path := folder / shard_name(shard)).is_file()
        and path.stat().st_size == len(shard_header(cache.rows(shard))) + cache.rows(shard) * IMAGE_BYTES
        for shard in range(-(-done // cache.shard_images))
    )


def _write_small_files(folder: Path, cache: _Cache, crcs: Sequence[int]) -> None:
    np.save(folder / ORIGINALS, cache.order.astype("<i8"))
    np.save(folder / LABELS, cache.dataset.labels[cache.order].astype("<i8"))
    _write_names(folder / NAMES, cache.image_names())
    _write_names(folder / IDENTITIES, cache.identity_names())
    manifest = Manifest(
        count=len(cache.order),
        shard_images=cache.shard_images,
        identities=len(cache.dataset.class_names),
        source=cache.plan,
        shards=crcs,
        files={name: file_crc(folder / name) for name in FILES},
    )
    write_text(folder / MANIFEST, manifest.to_json())


def _write_names(path: Path, names: Iterable[str]) -> None:
    with naming(path), path.open("wb") as stream:
        for name in names:
            stream.write(os.fsencode(name) + b"\0")


# ---------------------------------------------------------------- a cache that is there


def _kept(cache: _Cache, job: Job) -> Outcome:
    """Return the outcome where the same cache is there, its damaged shards made again.

    Raises:
        ValueError: if something else is there.
    """
    manifest = read_manifest(job.output)
    if manifest.source != cache.plan:
        raise ValueError(
            f"{job.output} exists and is of other images, or they have changed; give --overwrite to replace it, or "
            "another output"
        )
    damaged = damaged_files(job.output, manifest)
    if any(name in FILES for name in damaged):
        raise ValueError(f"{job.output / damaged[-1]}: damaged; give --overwrite to make the cache again")
    for shard, crc in enumerate(manifest.shards):
        if shard_name(shard) in damaged:
            _repair(cache, job, shard, crc)
    mended = f"; {counted(len(damaged), 'damaged shard')} made again" if damaged else ""
    return Outcome(f"{job.output}: complete already, from the same source{mended}")


def _repair(cache: _Cache, job: Job, shard: int, crc: int) -> None:
    path, rows = job.output / shard_name(shard), cache.rows(shard)
    first = shard * cache.shard_images
    with replacing(path) as temporary:
        with temporary.open("wb") as file:
            file.write(shard_header(rows))
            indices = cache.order[first : first + rows]
            with worked(cache.dataset, indices, to_pixels, job.jobs, f"Making {path.name} again") as payloads:
                for payload in payloads:
                    file.write(payload.data or bytes(IMAGE_BYTES))
            file.flush()
            os.fsync(file.fileno())
        if file_crc(temporary) != crc:
            raise ValueError(
                f"{path}: damaged, and its images are others now; give --overwrite to make the cache again"
            )
