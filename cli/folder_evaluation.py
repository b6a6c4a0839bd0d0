"""Evaluation of a checkpoint on images of the user's own: the program behind main_eval.py."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

import models
import transforms
from config import EvaluationConfig
from data import at_most_cores, warn_of_unaligned
from datasets import ImageFolderDataset, Pairs, UnreadableImageError, all_pairs, read_pairs
from datasets.faces.folder_scan import refuse_output_within
from datasets.progress import tracked
from engine import runs
from engine.devices import choose_precision, settle, uses_gpu
from engine.files import WriteFailures
from engine.out_of_memory import IMAGE_BYTES, refuse_beyond_memory
from evaluation import (
    FLIP_FUSION,
    MAP_DTYPES,
    FaceDescriptions,
    MethodResult,
    Resampling,
    describe_batches,
    evaluate_pairs,
    leave_one_out,
    one_kind_folds,
    score_all_pairs,
    score_pair_list,
    score_shortlisted_pairs,
    stratified_folds,
)
from evaluation.report.results import SCHEMA, Results, format_report, write_report
from system.files import atomic_write, make_room
from system.terminal import show
from tasks.recognition.reporting import NUM_RESAMPLES, draw_report
from tasks.recognition.validation import MIN_PAIRS, MIN_PEOPLE, precision, used_weights

logger = logging.getLogger(__name__)
SET_NAME = "own"  # in the result dictionary, where benchmarks have their names


class PairScores(NamedTuple):
    """Scores of all pairs, and under --shortlist which of them the matcher saw."""

    scores: dict[str, dict[str, NDArray[np.float32]]]  # condition -> matcher -> [N]
    matched: dict[str, NDArray[np.bool_]]  # condition -> [N]; empty: it saw all pairs


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
    dataset = ImageFolderDataset(options.data_path, follow_links=options.follow_links)
    listed = None if options.pairs is None else read_pairs(options.pairs, dataset)
    alignment = warn_of_unaligned(dataset)
    images, places, unreadable = read_images(dataset, listed, at_most_cores(options.num_workers))
    pairs = choose_pairs(dataset, places, listed, options.pairs or options.data_path)
    warn_of_few(dataset.root, pairs, dataset.labels[places])
    scored = score_conditions(model, images, pairs, options, every_pair=listed is None)
    labels = dataset.labels[places]
    resampling = choose_resampling(pairs, labels, options)
    results = evaluate_conditions(model, scored.scores, pairs, resampling, options)
    save_scores(folder / "scores.npz", [str(dataset.paths[place]) for place in places.tolist()], pairs, scored)
    facts = {
        "matched": describe_matched(scored.matched),
        "unreadable": unreadable,
        "left_out": "; ".join(dataset.unread) or "no file",
        "alignment": str(alignment),
    }
    report = describe_results(results, model, resampling, options, facts)
    if listed is None:
        report["benchmarks"][SET_NAME]["identification"] = identify(results, labels)
    write_report(folder, report)
    draw_report(folder, report, failures)
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


def read_images(
    dataset: ImageFolderDataset, listed: Pairs | None, num_workers: int = 1
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


def choose_pairs(dataset: ImageFolderDataset, places: NDArray[np.int64], listed: Pairs | None, source: str) -> Pairs:
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


def warn_of_few(root: Path, pairs: Pairs, labels: NDArray[np.int64]) -> None:
    """Say how little the figures can tell where pairs or people are few."""
    people = len(np.unique(labels[np.concatenate([pairs.first, pairs.second])]))
    text, is_enough = precision([len(pairs.issame)], [people])
    if not is_enough:
        few = f"figures of fewer than {MIN_PAIRS} pairs or {MIN_PEOPLE} people may be off by as much"
        logger.warning("%s: %s; %s", root, text, few)


def choose_device(options: EvaluationConfig) -> torch.device:
    """Return the GPU if one is asked for and there, else the CPU."""
    return torch.device("cuda" if uses_gpu(options) else "cpu")


def lower_precision(options: EvaluationConfig) -> torch.dtype | None:
    """Return the dtype of mixed precision, in which images are described and maps matched; None: all in float32."""
    return {"32": None, "bf16": torch.bfloat16, "16": torch.float16}[str(choose_precision(options).value)]


def score_conditions(
    model: models.FaceModel, images: NDArray[np.uint8], pairs: Pairs, options: EvaluationConfig, every_pair: bool
) -> PairScores:
    """Return the scores of the clean pairs ("clean"), and with `--occlude` of the same pairs "occluded"."""
    device = choose_device(options)
    model.to(device)
    clean = describe(model, images, options, device)
    sides = {"clean": (clean, clean)}
    if options.occlude != "none":
        hidden = describe(model, occlude_images(images, options), options, device)
        sides["occluded"] = (clean if options.occlude == "one" else hidden, hidden)
    matcher = model.matcher
    if matcher is not None:
        matcher.inference_dtype = lower_precision(options)
    scored = PairScores({}, {})
    with torch.inference_mode():
        for condition, (first, second) in sides.items():
            progress = partial(tracked, description=f"scoring {condition} pairs")
            if not every_pair:
                places = np.stack([pairs.first, pairs.second], axis=1)
                match_pairs = None if matcher is None else matcher.match_pairs
                scored.scores[condition] = score_pair_list(first, places, match_pairs, others=second, progress=progress)
            elif options.shortlist and matcher is not None:
                scored.scores[condition], scored.matched[condition] = score_shortlisted_pairs(
                    first, matcher, options.shortlist, others=second, progress=progress
                )
            else:
                scored.scores[condition] = score_all_pairs(first, matcher, others=second, progress=progress)
    return scored


def describe(
    model: models.FaceModel, images: NDArray[np.uint8], options: EvaluationConfig, device: torch.device
) -> FaceDescriptions:
    """Return the descriptions of all images, with flip augmentation and a progress bar."""

    def batches() -> Iterator[torch.Tensor]:
        starts = range(0, len(images), options.batch_size)
        for start in tracked(starts, "describing images"):
            yield transforms.to_tensor(torch.from_numpy(images[start : start + options.batch_size]).to(device))

    dtype = lower_precision(options)
    with torch.inference_mode(), torch.autocast(device.type, dtype, enabled=dtype is not None):
        return describe_batches(
            model.describe,
            batches(),
            len(images),
            map_dtype=None if model.matcher is None else MAP_DTYPES[options.map_dtype],
            folder=None if options.map_dir is None else Path(options.map_dir),
        )


def occlude_images(images: NDArray[np.uint8], options: EvaluationConfig) -> NDArray[np.uint8]:
    """Return the images occluded; the occluder of an image follows the seed and its place."""
    draws = (np.random.default_rng((options.seed, place)) for place in range(len(images)))
    return np.stack(
        [transforms.occlude(image, rng, options.occluders).image for image, rng in zip(images, draws, strict=True)]
    )


def choose_resampling(pairs: Pairs, labels: NDArray[np.int64], options: EvaluationConfig) -> Resampling:
    """Return how intervals are found: over people, unless a list of pairs contradicts the folders."""
    identities = np.stack([labels[pairs.first], labels[pairs.second]], axis=1)
    consistent = np.array_equal(identities[:, 0] == identities[:, 1], pairs.issame)
    return Resampling(identities if consistent else None, NUM_RESAMPLES, options.seed)


def evaluate_conditions(
    model: models.FaceModel,
    scores: dict[str, dict[str, NDArray[np.float32]]],
    pairs: Pairs,
    resampling: Resampling,
    options: EvaluationConfig,
) -> dict[str, dict[str, MethodResult]]:
    """Return {condition: {method: result}}; scores are fused with the checkpoint's statistics where it has them."""
    assert pairs.folds is not None, "choose_pairs gives every list of pairs its folds"
    weights = {"adaface": options.adaface_weight, "qaconv": options.qaconv_weight}
    fitted = model.fusion_statistics
    how = (
        {"statistics": replace(fitted, weights=weights)}
        if fitted is not None
        else {"weights": used_weights(weights, scores["clean"])}
    )
    return {
        condition: evaluate_pairs(by_matcher, pairs.issame, folds=pairs.folds, resampling=resampling, **how)
        for condition, by_matcher in scores.items()
    }


def identify(results: dict[str, dict[str, MethodResult]], labels: NDArray[np.int64]) -> dict[str, dict[str, Any]]:
    """Return {condition: {method: entry}} of searching every image among all others, from the scores of all pairs."""
    return {
        condition: {method: leave_one_out(result.scores, labels).to_dict() for method, result in methods.items()}
        for condition, methods in results.items()
    }


def save_scores(path: Path, image_paths: list[str], pairs: Pairs, scored: PairScores) -> None:
    """Write the pairs and scores used: `paths` of the images, `first` and `second` into them, issame, folds, scores.

    With `--shortlist` also which pairs were matched.
    """
    assert pairs.folds is not None
    arrays: dict[str, Any] = {
        f"{condition}_{name}": values for condition, by in scored.scores.items() for name, values in by.items()
    }
    arrays |= {f"{condition}_matched": matched for condition, matched in scored.matched.items()}
    with atomic_write(path, "wb") as stream:
        np.savez_compressed(
            stream,
            paths=np.array(image_paths),
            first=pairs.first.astype(np.int32),
            second=pairs.second.astype(np.int32),
            issame=pairs.issame,
            folds=pairs.folds.astype(np.int32),
            **arrays,
        )


def describe_matched(matched: Mapping[str, NDArray[np.bool_]]) -> str | dict[str, str]:
    """Return how many pairs of each condition the matcher saw, in words."""
    if not matched:
        return "all pairs"
    return {condition: f"{int(seen.sum()):,} of {seen.size:,} pairs" for condition, seen in matched.items()}


def describe_results(
    results: dict[str, dict[str, MethodResult]],
    model: models.FaceModel,
    resampling: Resampling,
    options: EvaluationConfig,
    facts: Mapping[str, object],
) -> Results:
    """Return the result dictionary of `evaluation.report.results`, with further facts in its protocol."""
    statistics = model.fusion_statistics
    return {
        "schema": SCHEMA,
        "synthetic": False,
        "missing": [],
        "protocol": {
            "model": options.model_path,
            "head": model.head_name,
            "data": options.data_path,
            "pairs": options.pairs or "all unordered pairs of images, each once, none with itself",
            "occlude": options.occlude,
            "occluders": options.occluders if options.occlude != "none" else (),
            "shortlist": options.shortlist,
            "map_dtype": options.map_dtype,
            **facts,
            "flip_fusion": FLIP_FUSION,
            "color_space": "rgb",
            "folds": "stratified, seeded" if options.pairs is None else "of the pair list, else stratified",
            "seed": options.seed,
            "interval_method": resampling.describe(),
            "fusion_weights": {"adaface": options.adaface_weight, "qaconv": options.qaconv_weight},
            "fusion_source": "other folds of these pairs" if statistics is None else f"checkpoint: {statistics.source}",
        },
        "benchmarks": {
            SET_NAME: {
                "checksum": "see scores.npz",
                "conditions": {
                    condition: {method: result.to_dict() for method, result in methods.items()}
                    for condition, methods in results.items()
                },
            }
        },
    }
