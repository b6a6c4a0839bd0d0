"""The images and pairs of an evaluation: read from a folder of people, a record file or a benchmark set."""

from __future__ import annotations

import logging
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.pool import ThreadPool
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import models
from config import EvaluationConfig
from datasets import (
    Benchmark,
    ImageFolderDataset,
    Pairs,
    RecordDataset,
    UnreadableImageError,
    all_pairs,
    read_pairs,
    warn_of_unaligned,
)
from datasets.benchmarks.pair_folder import is_pair_folder
from datasets.benchmarks.sets import are_sets, open_sets
from datasets.photos.people import open_people
from datasets.progress import tracked
from evaluation import one_kind_folds, stratified_folds
from evaluation.run import MIN_PAIRS, MIN_PEOPLE, precision_of
from system.cores import at_most_cores
from system.terminal import printable

logger = logging.getLogger(__name__)
MAX_NAME = 50  # characters of a folder's name that the report and its files are named after; up to four bytes each


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Pairs whose images are there to be looked at: what `evaluation.run` asks of a source.

    Attributes:
        name: of the folder or the set.
        images: uint8 [M, 112, 112, 3] RGB.
        pairs: by place in images.
        identities: int64 [2N] of each pair's images, None where they are not known or contradict the answers.
        keys: what the occluder of each image is drawn by, with the seed.
        checksum_text: what `checksum` returns.
        labels: int64 [M], people by image, where all unordered pairs are scored; else None.
        paths: of the images, where they are files.
        facts: what the report says of the reading.
    """

    name: str
    images: NDArray[np.uint8]
    pairs: Pairs
    identities: NDArray[np.int64] | None
    keys: Sequence[tuple[int, ...]]
    checksum_text: str
    labels: NDArray[np.int64] | None = None
    paths: Sequence[str] = ()
    facts: Mapping[str, object] = field(default_factory=dict)

    @property
    def issame(self) -> NDArray[np.bool_]:
        """Bool [N], True where both images show one person."""
        return self.pairs.issame

    @property
    def folds(self) -> NDArray[np.int64] | None:
        """int64 [N] where they are given."""
        return self.pairs.folds

    @property
    def places(self) -> NDArray[np.int64] | None:
        """int64 [N, 2], places of each pair; None: all unordered pairs."""
        return None if self.labels is not None else np.stack([self.pairs.first, self.pairs.second], axis=1)

    def checksum(self) -> str:
        """Return what tells which pairs these are."""
        return self.checksum_text


def open_sources(options: EvaluationConfig, trained: models.Alignment | None = None) -> tuple[list[ImageSet], bool]:
    """Return what is to be evaluated, and whether it is benchmark sets, with the pairs of their protocols.

    Args:
        options: of the evaluation.
        trained: how the faces were aligned that the model was trained on; a folder of others is refused.
    Raises:
        ValueError, OSError: one line, if it cannot be read, or an option asks for what it has not.
    """
    sets = open_sets(Path(options.data_path)) if is_benchmark(options) else []
    if sets and options.shortlist:
        raise ValueError("--shortlist chooses among all pairs of a folder; a benchmark set has its own: leave it out")
    return [from_benchmark(benchmark) for benchmark in sets] or [read_folder(options, trained)], bool(sets)


def is_benchmark(options: EvaluationConfig) -> bool:
    """Return whether the path is a benchmark set or a folder of such; a folder of people is none, list or not.

    Raises:
        ValueError: if it is one, and a list of pairs is given too.
    """
    path = Path(options.data_path)
    if is_pair_folder(path) or not are_sets(path):
        return False
    if options.pairs is not None:
        raise ValueError(f"--pairs names files of a folder; {path} is a benchmark set or holds some: leave it out")
    return True


def from_benchmark(benchmark: Benchmark) -> ImageSet:
    """Return a set, occluded like in a run's validation: the second image of a pair by its name and place."""
    name, numbers = zlib.crc32(benchmark.name.encode()), range(len(benchmark))
    places = np.arange(2 * len(benchmark))
    return ImageSet(
        benchmark.name,
        benchmark.images,
        Pairs(places[::2], places[1::2], benchmark.issame, benchmark.folds),
        benchmark.identities,
        [key for number in numbers for key in ((name, number, 1), (name, number))],
        benchmark.checksum(),
    )


def read_folder(options: EvaluationConfig, trained: models.Alignment | None = None) -> ImageSet:
    """Read a folder of people or a record file: the images of the pairs listed, or all with all unordered pairs."""

    def accept(facts: Mapping[str, object]) -> None:
        if trained is not None:
            trained.refuse_other(models.Alignment.of(facts))

    path = Path(options.data_path)
    dataset: ImageFolderDataset | RecordDataset
    aligned: Mapping[str, object] = {}
    if path.suffix == ".rec" or (path / "train.rec").is_file():
        if options.pairs is not None:
            raise ValueError(f"--pairs names files of a folder; {path} is a record file, whose images have no names")
        dataset, left_out = RecordDataset(path), ""
    else:
        folder = ImageFolderDataset(path, follow_links=options.follow_links)
        choice, jobs = models.DetectorChoice(options.detector), max(1, at_most_cores(options.num_workers))
        dataset, people = open_people(folder, options.align, choice, jobs, accept)
        left_out, aligned = "; ".join(folder.unread), people.facts()
    listed = None if options.pairs is None else read_pairs(options.pairs, dataset)
    alignment = warn_of_unaligned(dataset)
    images, places, unreadable = read_images(dataset, listed, at_most_cores(options.num_workers))
    pairs = choose_pairs(dataset, places, listed, options.pairs or options.data_path)
    labels = dataset.labels[places]
    identities = np.stack([labels[pairs.first], labels[pairs.second]], axis=1)
    consistent = np.array_equal(identities[:, 0] == identities[:, 1], pairs.issame)
    source = ImageSet(
        printable(path.resolve().stem if path.suffix == ".rec" else path.resolve().name or "images", MAX_NAME),
        images,
        pairs,
        identities.ravel() if consistent else None,
        [(place,) for place in range(len(images))],
        "see scores.npz",
        labels if listed is None else None,
        [str(dataset.paths[place]) for place in places.tolist()],
        {"unreadable": unreadable, "left_out": left_out or "no file", "alignment": str(alignment), **aligned},
    )
    warn_of_few(dataset.root, source)
    return source


def read_images(
    dataset: ImageFolderDataset | RecordDataset, listed: Pairs | None, num_workers: int = 1
) -> tuple[NDArray[np.uint8], NDArray[np.int64], list[str]]:
    """Read the images that take part, in threads: decoding lets go of Python's lock.

    Returns:
        uint8 [N, 112, 112, 3] images, their places in the data set int64 [N], and what could not be read and why.

    Raises:
        ValueError: if fewer than two images are left.
    """
    wanted = np.arange(len(dataset)) if listed is None else np.unique(np.concatenate([listed.first, listed.second]))

    def read(index: int) -> NDArray[np.uint8] | UnreadableImageError:
        try:
            return dataset.read(index)
        except UnreadableImageError as error:
            return error

    images, places, unreadable = [], [], []
    with ThreadPool(max(1, num_workers)) as pool:
        answers = tracked(pool.imap(read, wanted.tolist()), "reading images", len(wanted))
        for index, answer in zip(wanted.tolist(), answers, strict=True):
            if isinstance(answer, UnreadableImageError):
                unreadable.append(str(answer))
            else:
                images.append(answer)
                places.append(index)
    if unreadable:
        logger.warning("%d of %d images are left out; the first: %s", len(unreadable), len(wanted), unreadable[0])
    if len(images) < 2:
        raise ValueError(f"{dataset.root}: {len(images)} readable images; at least two are needed")
    return np.stack(images), np.array(places), unreadable


def choose_pairs(
    dataset: ImageFolderDataset | RecordDataset, places: NDArray[np.int64], listed: Pairs | None, source: str
) -> Pairs:
    """Return the pairs to score by position among the images read: those listed, else every unordered pair once.

    Raises:
        ValueError: if there are fewer than two genuine or two impostor pairs; names their source.
    """
    if listed is None:
        pairs = all_pairs(dataset.labels[places])
    else:
        kept = np.isin(listed.first, places) & np.isin(listed.second, places)
        first, second = (np.searchsorted(places, side[kept]) for side in (listed.first, listed.second))
        pairs = Pairs(first, second, listed.issame[kept], None if listed.folds is None else listed.folds[kept])
    num_genuine, num_impostor = int(pairs.issame.sum()), int((~pairs.issame).sum())
    if min(num_genuine, num_impostor) < 2:
        raise ValueError(
            f"{source}: {num_genuine} genuine and {num_impostor} impostor pairs of readable images; two of each are "
            "needed to cross-validate a threshold"
        )
    if pairs.folds is not None:
        if not one_kind_folds(pairs.issame, pairs.folds):
            return pairs
        logger.warning(
            "%s: without unreadable images a fold holds one kind of pairs; stratified folds are used", source
        )
    return pairs._replace(folds=stratified_folds(pairs.issame, min(10, num_genuine, num_impostor)))


def warn_of_few(root: Path, source: ImageSet) -> None:
    """Say how little the figures can tell where pairs or people are few."""
    text, is_enough = precision_of([source])
    if not is_enough:
        few = f"figures of fewer than {MIN_PAIRS} pairs or {MIN_PEOPLE} people may be off by as much"
        logger.warning("%s: %s; %s", root, text, few)
