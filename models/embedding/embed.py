"""A whole data set embedded into a folder, by any number of processes, from where a killed one was."""

from __future__ import annotations

import csv
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from datasets.conversion import outcome, workspace
from datasets.conversion.outcome import Outcome, list_unreadable, moves_of_list
from datasets.conversion.workspace import Journal, Workspace, open_workspace
from datasets.counted import counted
from datasets.payloads import Payload
from datasets.progress import tracked
from evaluation import Description, describe_with_flip
from models.embedding import folder as layout
from models.embedding.rows import EMBEDDINGS, NORMS, PARTS, RowFiles, Rows
from models.embedding.sources import Crop, Source, Unreadable
from models.face_model import FaceModel
from models.portraits import weights_checksum
from system.files import naming, write_text
from system.memory import gigabytes
from system.terminal import escaped
from transforms import IMAGE_SIZE, to_tensor

logger = logging.getLogger(__name__)

FORMATS = ("npy", "parquet")
_RESULT, _READY = "result", "ready"
_WAIT_SECONDS = 0.5  # between two looks at what other processes do
_START_SECONDS = 600.0  # for the first process to prepare the files
_PART_ROWS = 2**14


class Encoder(NamedTuple):
    """What embeds images.

    Attributes:
        model: in eval mode, on its device.
        precision: under which images are described, for the record.
        autocast: what makes it so.
    """

    model: FaceModel
    precision: str = "float32"
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext


class EmbedJob(NamedTuple):
    """How a source is embedded.

    Attributes:
        output: folder to write.
        batch_size: images at a time.
        dtype: float16 or float32, of the embeddings that are kept.
        flip: whether an image is described together with its mirror image, as in an evaluation.
        format: npy or parquet.
        overwrite: whether a finished result is replaced.
        rank, num_ranks: which process this is, of those that share the folder.
    """

    output: Path
    batch_size: int = 64
    dtype: str = "float16"
    flip: bool = True
    format: str = "npy"
    overwrite: bool = False
    rank: int = 0
    num_ranks: int = 1


class Origin(NamedTuple):
    """Where the images come from, for the record.

    Attributes:
        path: of the source.
        template, detector: of the aligner.
    """

    path: str
    template: str = "as given"
    detector: str = "none"


def embed(
    encoder: Encoder | FaceModel,
    source: Source,
    job: EmbedJob,
    origin: Origin | None = None,
    versions: Mapping[str, object] | None = None,
) -> Outcome | None:
    """Write the embeddings of all images of a source into the folder `job.output`, see `embedding.folder`.

    Every process takes a contiguous part of the batches; the first one makes the files and, when all are done, gives
    them their name. Killed, the same call goes on after the batches that are whole, with any number of processes, and
    gives the same bits. Images that cannot be read are left out and listed in `<output>.unreadable.tsv`.

    Args:
        encoder: what embeds.
        source: the images.
        job: how.
        origin: where the images come from; None: not told.
        versions: of packages, for the record.
    Returns:
        What it came to; None in all processes but the first.
    Raises:
        ValueError: one line: if a result with other weights or of other images is there or was begun, an embedding is
            not finite, or no image can be read.
        OSError: if the output cannot be written.
    """
    encoder = Encoder(encoder) if isinstance(encoder, FaceModel) else encoder
    if len(source) == 0:
        raise ValueError("embed: the source holds no image")
    if job.dtype not in layout.DTYPES or job.format not in FORMATS or job.batch_size < 1:
        raise ValueError(f"embed: dtype {job.dtype}, format {job.format}, batch_size {job.batch_size}: not possible")
    if job.format == "parquet":
        from models.embedding.parquet import pyarrow

        pyarrow()  # refused before the work
    facts = _facts(encoder, source, job, origin or Origin("not told"))
    work = _Work(encoder, source, job, facts)
    if job.rank:
        work.join()
        return None
    if job.output.exists() and not job.overwrite:
        _compare(layout.read_facts(job.output), facts, f"{job.output} exists and")
        return Outcome(f"{job.output}: complete already, from the same images and weights")
    return work.lead({**facts, "versions": dict(versions or {})})


def _facts(encoder: Encoder, source: Source, job: EmbedJob, origin: Origin) -> dict[str, Any]:
    """Return everything that the numbers follow from, and what tells it."""
    return {
        "format": layout.FORMAT,
        "dim": int(encoder.model.model.embedding_size),
        "dtype": job.dtype,
        "weights_sha256": weights_checksum(encoder.model),
        "arch": encoder.model.arch,
        "form": encoder.model.form,
        "encoder": encoder.model.encoder,
        "source": origin.path,
        "images_sha256": source.state(),
        "images": len(source),
        "template": origin.template,
        "detector": origin.detector,
        "flip": job.flip,
        "precision": encoder.precision,
        "batch_size": job.batch_size,
        "kept_as": job.format,
    }


_REASONS = {
    "weights_sha256": "is of other weights", "images_sha256": "is of other images, or they have changed",
    "images": "is of other images", "source": "is of another source",
}  # fmt: skip


def _compare(there: Mapping[str, Any], facts: Mapping[str, Any], what: str) -> None:
    """Refuse to mix embeddings of two origins.

    Raises:
        ValueError: one line that says what differs.
    """
    order = (*_REASONS, *facts)
    for name in (name for name in order if name != "source" and there.get(name, facts[name]) != facts[name]):
        reason = _REASONS.get(name, f"has another {name} ({there.get(name)} there, {facts[name]} here)")
        raise ValueError(f"{what} {reason}; give --overwrite to replace it, or another output")


class _Work:
    """One embedding of a source, as a process sees it."""

    def __init__(self, encoder: Encoder, source: Source, job: EmbedJob, facts: dict[str, Any]) -> None:
        self._encoder = encoder
        self._source = source
        self._job = job
        self._plan = json.dumps({name: value for name, value in facts.items() if name != "source"}, sort_keys=True)
        self._facts = facts
        self._folder = workspace.folder_of(job.output)
        self._rows = RowFiles(self._folder, len(source), facts["dim"], job.dtype, job.batch_size)

    # ---------------------------------------------------------------- processes

    def lead(self, facts: dict[str, Any]) -> Outcome:
        """Make the files, embed this process's part, wait for the others, and publish the result."""
        output = self._job.output
        begun = workspace.plan_of(output)
        if begun and not self._job.overwrite:
            _compare(_parsed(begun), self._facts, f"{output}: what an interrupted run began")
        if output.exists() and not (output / layout.DESCRIPTION).is_file():
            raise ValueError(f"{output} exists and is not what `embed` writes; give another output")
        with open_workspace(output, self._plan) as space:
            if space.published:
                return outcome.named_by_earlier_run(output)
            self._prepare(space)
            self._embed(self._share())
            self._wait()
            self._embed(range(self._rows.num_batches))  # what another process left that is not whole
            return self._publish(space, facts)

    def join(self) -> None:
        """Wait for the files, and embed this process's part."""
        end = time.monotonic() + _START_SECONDS
        while workspace.plan_of(self._job.output) != self._plan or not (self._folder / _READY).exists():
            if time.monotonic() > end:
                raise ValueError(f"{self._job.output}: the first process did not begin it; is the folder shared?")
            time.sleep(_WAIT_SECONDS)
        self._embed(self._share())

    def _prepare(self, space: Workspace) -> None:
        with Journal(space, PARTS, ("ready",)) as journal:
            if journal.counts["ready"]:
                return
            self._refuse_full_disk()
            self._rows.reserve()
            for name, size in self._rows.sizes().items():
                journal.files[name].seek(size)
            journal.counts["ready"] = 1
            journal.checkpoint()
        write_text(self._folder / _READY, "")

    def _refuse_full_disk(self) -> None:
        needed, free = sum(self._rows.sizes().values()), shutil.disk_usage(self._folder).free
        if needed > free:
            raise ValueError(
                f"{self._job.output}: {counted(len(self._source), 'embedding')} need {gigabytes(needed)}, and its "
                f"disk has {gigabytes(free)} free; give an output on another disk"
            )

    def _share(self) -> range:
        num, job = self._rows.num_batches, self._job
        return range(job.rank * num // job.num_ranks, (job.rank + 1) * num // job.num_ranks)

    def _wait(self) -> None:
        while self._job.num_ranks > 1 and self._rows.marked() < self._rows.num_batches:
            time.sleep(_WAIT_SECONDS)

    # ---------------------------------------------------------------- rows

    def _embed(self, batches: range) -> None:
        """Fill in the batches that are not whole."""
        todo = [batch for batch in batches if not self._rows.is_done(batch)]
        if len(todo) < len(batches) and self._job.rank == 0 and todo:
            logger.info(
                "%s: %d of %d batches are done already", self._job.output, len(batches) - len(todo), len(batches)
            )
        for batch in tracked(todo, "Embedding", len(todo), hidden=self._job.rank > 0 or not todo):
            self._rows.write(batch, self._described(self._source.read(*self._rows.span(batch))))

    @torch.inference_mode()
    def _described(self, found: Sequence[Crop | Unreadable]) -> Rows:
        model = self._encoder.model
        is_read = np.array([not isinstance(image, Unreadable) for image in found])
        blank = np.zeros((IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8)  # the batch keeps its shape, and so its bits
        pixels = np.stack([blank if isinstance(image, Unreadable) else image for image in found])
        seen: list[Description] = []

        def describe(images: Tensor) -> Description:
            told = model.describe(images)
            seen.append(told)
            return told._replace(local_map=told.norm[:, :, None, None])  # the maps are not wanted

        images = to_tensor(torch.from_numpy(pixels).to(model.device))
        with self._encoder.autocast():
            described = describe_with_flip(describe, images) if self._job.flip else describe(images)
        norms = torch.stack([told.norm[:, 0].float() for told in seen]).mean(dim=0).cpu().numpy()
        quality = np.full(len(found), np.nan, np.float32)
        if seen[0].visibility is not None:
            quality = seen[0].visibility.float().mean((1, 2, 3)).cpu().numpy()
        values = described.embedding.float().cpu().numpy()
        if not (np.isfinite(values[is_read]).all() and np.isfinite(norms[is_read]).all()):
            raise ValueError("an embedding is not finite; the weights may be damaged")
        values[~is_read], norms[~is_read], quality[~is_read] = 0, np.nan, np.nan
        return Rows(values.astype(self._job.dtype), norms, quality)

    # ---------------------------------------------------------------- the result

    def _publish(self, space: Workspace, facts: dict[str, Any]) -> Outcome:
        result = self._folder / _RESULT
        shutil.rmtree(result, ignore_errors=True)
        result.mkdir()
        norms = np.concatenate([self._rows.read(batch).norms for batch in range(self._rows.num_batches)])
        kept = np.flatnonzero(~np.isnan(norms))
        if not len(kept):
            raise ValueError(f"{facts['source']}: none of its {len(norms)} images can be read")
        num_unreadable = len(norms) - len(kept)
        if self._job.format == "parquet":
            self._write_parquet(result)
        else:
            self._write_arrays(result, kept, norms)
        content = {**facts, "count": len(kept), "unreadable": num_unreadable}
        write_text(result / layout.DESCRIPTION, json.dumps(content, indent=1) + "\n")
        self._list_unreadable(np.flatnonzero(np.isnan(norms)))
        output = self._job.output
        space.publish([(_RESULT, output), *moves_of_list(num_unreadable, output)])
        text = f"{output}: {counted(len(kept), 'embedding')} of {facts['dim']} numbers, {self._job.dtype}"
        return Outcome(text, num_unreadable, outcome.unreadable_beside(output) if num_unreadable else None)

    def _write_arrays(self, result: Path, kept: NDArray[np.int64], norms: NDArray[np.float32]) -> None:
        if len(kept) == len(norms):
            for name in (EMBEDDINGS, NORMS):
                _link(self._folder / name, result / name)
        else:
            self._write_kept(result / EMBEDDINGS, len(kept))
            np.save(result / NORMS, norms[kept])
        if self._source.labels is not None:
            np.save(result / layout.LABELS, self._source.labels[kept].astype(np.int64))
        with naming(result / layout.IMAGES), (result / layout.IMAGES).open("w", encoding="utf-8", newline="") as stream:
            writer = csv.writer(stream, lineterminator="\n")
            writer.writerow(layout.COLUMNS)
            for places, rows in self._parts():
                labels = [""] * len(places) if self._source.labels is None else self._source.labels[places].tolist()
                for place, label, quality in zip(places.tolist(), labels, rows.quality.tolist(), strict=True):
                    known = "" if np.isnan(quality) else f"{quality:.4f}"
                    writer.writerow([place, escaped(self._source.name(place)), label, known])

    def _write_kept(self, path: Path, count: int) -> None:
        """Write the embeddings of the images that could be read."""
        with naming(path), path.open("wb") as stream:
            header = RowFiles(self._folder, count, self._facts["dim"], self._job.dtype, 1).header(EMBEDDINGS)
            stream.write(header)
            for _, rows in self._parts():
                stream.write(np.ascontiguousarray(rows.embeddings).tobytes())

    def _write_parquet(self, result: Path) -> None:
        from models.embedding.parquet import Part, write_parquet

        labels = self._source.labels
        parts = (
            Part(
                places, [escaped(self._source.name(place)) for place in places.tolist()],
                None if labels is None else labels[places], rows.norms, rows.quality, rows.embeddings,
            )
            for places, rows in self._parts()
        )  # fmt: skip
        write_parquet(result / layout.PARQUET, parts, self._job.dtype, self._facts["dim"], labels is not None)

    def _parts(self) -> Iterator[tuple[NDArray[np.int64], Rows]]:
        """Yield the places and the rows of the images that could be read, some thousands at a time."""
        step = max(1, _PART_ROWS // self._job.batch_size)
        for first in range(0, self._rows.num_batches, step):
            batches = range(first, min(first + step, self._rows.num_batches))
            rows = Rows(*map(np.concatenate, zip(*map(self._rows.read, batches), strict=True)))
            kept = np.flatnonzero(~np.isnan(rows.norms))
            yield kept + self._rows.span(first)[0], Rows(*(values[kept] for values in rows))

    def _list_unreadable(self, places: NDArray[np.int64]) -> None:
        """Say why: what met these images may have been another process, or an earlier run."""
        with (self._folder / outcome.UNREADABLE).open("wb") as stream:
            for place in places.tolist():
                (found,) = self._source.read(place, place + 1)
                reason = found.reason if isinstance(found, Unreadable) else "could be read at the second attempt"
                list_unreadable(stream, Payload(self._source.name(place), b"", reason))


def _link(source: Path, target: Path) -> None:
    """Give a file a second name, or copy it: the first stays for a run that is killed here."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _parsed(plan: str) -> dict[str, Any]:
    try:
        found = json.loads(plan)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
