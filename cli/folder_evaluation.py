"""Evaluation of a checkpoint on the user's own images or on benchmark sets: the program behind main_eval.py."""

from __future__ import annotations

import logging
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import models
import transforms
from config import EvaluationConfig
from data import at_most_cores, warn_of_unaligned
from datasets import Benchmark, ImageFolderDataset, Pairs, RecordDataset, UnreadableImageError, all_pairs, read_pairs
from datasets.benchmarks.pair_folder import is_pair_folder
from datasets.benchmarks.sets import are_sets, open_sets
from datasets.faces.folder_scan import refuse_output_within
from datasets.photos.people import open_people
from datasets.progress import tracked
from engine import runs
from engine.devices import choose_precision, settle, uses_gpu
from engine.files import WriteFailures, side_file
from engine.out_of_memory import IMAGE_BYTES, refuse_beyond_memory
from evaluation import MAP_DTYPES, FaceDescriptions, describe_batches, one_kind_folds, stratified_folds
from evaluation.report.results import format_report, write_report
from evaluation.run import (
    MIN_PAIRS,
    MIN_PEOPLE,
    ImageScores,
    build_results,
    compare,
    evaluate,
    identify,
    precision_of,
    score_images,
)
from system.files import atomic_write, make_room
from system.terminal import printable, show

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


def run(options: EvaluationConfig) -> int:
    """Score the pairs, evaluate them, write the report into the output folder, and return the exit code."""
    refuse_beyond_memory({f"--batch-size {options.batch_size}": options.batch_size * IMAGE_BYTES})
    folder = Path(options.output_dir)
    refuse_output_within(Path(options.data_path), folder, "--output-dir")
    folder.mkdir(parents=True, exist_ok=True)
    lock = runs.lock_folder(folder)
    make_room(folder, ["run.log"])
    failures = WriteFailures()
    runs.log_into(folder, runs.start_log(), failures)
    options = settle(options)
    model = load_model(options)
    sets = open_sets(Path(options.data_path)) if is_benchmark(options) else []
    if sets and options.shortlist:
        raise ValueError("--shortlist chooses among all pairs of a folder; a benchmark set has its own: leave it out")
    sources = [from_benchmark(benchmark) for benchmark in sets] or [read_folder(options)]
    scored = {source.name: score(model, source, options) for source in sources}
    weights = {"adaface": options.adaface_weight, "qaconv": options.qaconv_weight}
    # A benchmark set is fused by its own folds, as in a run's report; a folder by what the checkpoint brings.
    fitted = None if sets or model.fusion_statistics is None else replace(model.fusion_statistics, weights=weights)
    results = evaluate(sources, {name: found.scores for name, found in scored.items()}, weights, fitted)
    fusion_source = "other folds of these pairs" if fitted is None else f"checkpoint: {fitted.source}"
    facts = describe_run(sources, scored, model, options, fusion_source)
    report = build_results(sources, results, facts, seed=options.seed, fars=options.fars)
    if sets:
        report["comparisons"] = compare(sources, results)
    for source in sources:
        if source.labels is not None:
            identify(report, source.name, results[source.name], source.labels)
        save_scores(folder / (f"scores_{source.name}.npz" if sets else "scores.npz"), source, scored[source.name])
    write_report(folder, report)
    with side_file(failures, f"{folder.name} pictures"):
        from evaluation.report.plots import plot_report  # matplotlib is not for a run that is refused

        plot_report(folder, report)
    show(format_report(report))
    show(f"report: {folder}")
    lock.close()
    return failures.exit_code()


def load_model(options: EvaluationConfig) -> models.FaceModel:
    """Return the model to evaluate.

    Raises:
        FileNotFoundError, ValueError: if the options ask for what is not there: a model, a folder, a matcher.
    """
    if options.map_dir is not None and not Path(options.map_dir).is_dir():
        raise FileNotFoundError(f"--map-dir {options.map_dir}: no such folder")
    model = models.load(options.model_path, options.arch, options.color_space)
    if options.shortlist and model.matcher is None:
        raise ValueError(f"--shortlist is for the local matcher, which {options.model_path} has not; leave it out")
    return model


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


def read_folder(options: EvaluationConfig) -> ImageSet:
    """Read a folder of people or a record file: the images of the pairs listed, or all with all unordered pairs."""
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
        dataset, people = open_people(folder, options.align, choice, jobs)
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


def choose_device(options: EvaluationConfig) -> torch.device:
    """Return the GPU if one is asked for and there, else the CPU."""
    return torch.device("cuda" if uses_gpu(options) else "cpu")


def lower_precision(options: EvaluationConfig) -> torch.dtype | None:
    """Return the dtype of mixed precision, in which images are described and maps matched; None: all in float32."""
    return {"32": None, "bf16": torch.bfloat16, "16": torch.float16}[str(choose_precision(options).value)]


def score(model: models.FaceModel, source: ImageSet, options: EvaluationConfig) -> ImageScores:
    """Return the scores of the clean pairs ("clean"), and with `--occlude` of the same pairs "occluded"."""
    device = choose_device(options)
    model.to(device)
    if model.matcher is not None:
        model.matcher.inference_dtype = lower_precision(options)
    return score_images(
        source,
        lambda images: describe(model, images, options, device),
        model.matcher,
        None if options.occlude == "none" else lambda images: occlude_images(images, source.keys, options),
        options.occlude == "both",
        options.shortlist,
        tracked,
    )


def describe(
    model: models.FaceModel, images: NDArray[np.uint8], options: EvaluationConfig, device: torch.device
) -> FaceDescriptions:
    """Return the descriptions of all images, with flip augmentation and a progress bar."""

    def batches() -> Iterator[torch.Tensor]:
        starts = range(0, len(images), options.batch_size)
        for start in tracked(starts, "describing images"):
            batch = np.array(images[start : start + options.batch_size])  # a copy: those of a set are mapped
            yield transforms.to_tensor(torch.from_numpy(batch).to(device))

    dtype = lower_precision(options)
    with torch.inference_mode(), torch.autocast(device.type, dtype, enabled=dtype is not None):
        return describe_batches(
            model.describe,
            batches(),
            len(images),
            map_dtype=None if model.matcher is None else MAP_DTYPES[options.map_dtype],
            folder=None if options.map_dir is None else Path(options.map_dir),
        )


def occlude_images(
    images: NDArray[np.uint8], keys: Sequence[tuple[int, ...]], options: EvaluationConfig
) -> NDArray[np.uint8]:
    """Return the images occluded; the occluder of an image follows the seed and its key."""
    draws = (np.random.default_rng((options.seed, *key)) for key in keys)
    return np.stack(
        [transforms.occlude(image, rng, options.occluders).image for image, rng in zip(images, draws, strict=True)]
    )


def save_scores(path: Path, source: ImageSet, scored: ImageScores) -> None:
    """Write the pairs and scores used: `paths` of the images, `first` and `second` into them, issame, folds, scores.

    With `--shortlist` also which pairs were matched. A set without paths has its images' places alone, one without
    folds none.
    """
    pairs = source.pairs
    arrays: dict[str, Any] = {
        f"{condition}_{name}": values for condition, by in scored.scores.items() for name, values in by.items()
    }
    arrays |= {f"{condition}_matched": matched for condition, matched in scored.matched.items()}
    arrays |= {} if pairs.folds is None else {"folds": pairs.folds.astype(np.int32)}
    with atomic_write(path, "wb") as stream:
        np.savez_compressed(
            stream,
            paths=np.array(source.paths, dtype=np.str_),
            first=pairs.first.astype(np.int32),
            second=pairs.second.astype(np.int32),
            issame=pairs.issame,
            **arrays,
        )


def describe_run(
    sources: Sequence[ImageSet],
    scored: Mapping[str, ImageScores],
    model: models.FaceModel,
    options: EvaluationConfig,
    fusion_source: str,
) -> dict[str, object]:
    """Return the facts of the report's protocol that only this program knows."""
    matched = scored[sources[0].name].matched
    facts = {
        "model": options.model_path,
        "head": model.head_name,
        "data": options.data_path,
        "occlude": options.occlude,
        "occluders": options.occluders if options.occlude != "none" else (),
        "shortlist": options.shortlist,
        "map_dtype": options.map_dtype,
        "seed": options.seed,
        "fusion_weights": {"adaface": options.adaface_weight, "qaconv": options.qaconv_weight},
        "fusion_source": fusion_source,
        "matched": {name: f"{int(seen.sum()):,} of {seen.size:,} pairs" for name, seen in matched.items()}
        or "all pairs",
        **sources[0].facts,
    }
    if sources[0].paths:
        facts["pairs"] = options.pairs or "all unordered pairs of images, each once, none with itself"
        facts["folds"] = "stratified, seeded" if options.pairs is None else "of the pair list, else stratified"
    return facts
