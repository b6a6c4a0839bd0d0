"""Evaluation of a checkpoint on the user's own images or on benchmark sets: the program behind main_eval.py."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TextIO

import numpy as np
import torch
from numpy.typing import NDArray

import models
import transforms
from cli.pairs.groupings import find_groups, list_groups
from cli.pairs.image_sets import ImageSet, open_sources
from cli.pairs.score_files import save_scores
from config import EvaluationConfig
from datasets.faces.folder_scan import refuse_output_within
from datasets.progress import tracked
from engine import runs
from engine.devices import choose_precision, settle, uses_gpu
from engine.files import WriteFailures, side_file
from engine.out_of_memory import IMAGE_BYTES, refuse_beyond_memory
from evaluation import MAP_DTYPES, FaceDescriptions, ScoreNormalization, describe_batches
from evaluation.report import draw_report, format_report, write_report
from evaluation.run import (
    MethodResults,
    OverDraws,
    Search,
    SetResults,
    build_results,
    compare,
    evaluate,
    group,
    identify,
)
from evaluation.scores.images import ImageScores, Scores, Scoring, score_images
from system.files import make_room
from system.terminal import show
from tasks.recognition.hardest_pairs import add_hardest, look_again


def run(options: EvaluationConfig) -> int:
    """Score the pairs, evaluate them, write the report into the output folder, and return the exit code."""
    folder, lock, failures, options = begin(options)
    model = load_model(options)
    sources, are_sets = open_sources(options, model.alignment)
    listed = {source.name: list_groups(source, options) for source in sources}
    scored = {source.name: score(model, source, options) for source in sources}
    groups = {s.name: find_groups(s, scored[s.name], options, listed[s.name]) for s in sources}
    weights = weights_of(options)
    # A benchmark set is fused by its own folds, as in a run's report; a folder by what the checkpoint brings.
    fitted = None if are_sets or model.fusion_statistics is None else replace(model.fusion_statistics, weights=weights)
    fuse = partial(evaluate, weights=weights, statistics=fitted)
    results = fuse(sources, {name: found.scores for name, found in scored.items()})
    over_draws = OverDraws(results, further_results(sources, scored, fuse))
    fusion_source = "other folds of these pairs" if fitted is None else f"checkpoint: {fitted.source}"
    if (known := normalization_of(model, options)) is not None:
        fusion_source = f"checkpoint, by what is visible: {known.source}"
    facts = describe_run(sources, scored, model, options, fusion_source)
    report = build_results(sources, over_draws, facts, seed=options.seed, fars=options.fars)
    if are_sets:
        report["comparisons"] = compare(sources, over_draws)
    for source in sources:
        if source.labels is not None:
            draws = searches(source, scored[source.name], results[source.name], fuse)
            identify(report, source.name, results[source.name], source.labels, next(draws).exchanged, draws)
        group(report, source, results[source.name], groups[source.name], options.seed)
        path = folder / (f"scores_{source.name}.npz" if are_sets else "scores.npz")
        save_scores(path, source, scored[source.name], results[source.name])
    with side_file(failures, f"{folder.name} hardest pairs"), torch.inference_mode():
        add_hardest(folder, report, sources, results, look_again(model, options, occlude_images), options.anonymous)
    write_report(folder, report)
    with side_file(failures, f"{folder.name} pictures"):
        draw_report(folder, report, anonymous=options.anonymous)
    show(format_report(report))
    show(f"report: {folder}")
    lock.close()
    return failures.exit_code()


def begin(options: EvaluationConfig) -> tuple[Path, TextIO, WriteFailures, EvaluationConfig]:
    """Make and lock the output folder and log into it; return folder, lock, what fails to be written, settled options.

    Raises:
        ValueError: if the folder lies in the data, is another run's, or the options need more than there is.
    """
    refuse_beyond_memory({f"--batch-size {options.batch_size}": options.batch_size * IMAGE_BYTES})
    folder = Path(options.output_dir)
    refuse_output_within(Path(options.data_path), folder, "--output-dir")
    folder.mkdir(parents=True, exist_ok=True)
    lock = runs.lock_folder(folder)
    make_room(folder, [runs.LOG_FILE])
    failures = WriteFailures()
    runs.log_into(folder, runs.start_log(), failures)
    return folder, lock, failures, settle(options)


def weights_of(options: EvaluationConfig) -> dict[str, float]:
    """Return the weights of the combined score."""
    return {"adaface": options.adaface_weight, "qaconv": options.qaconv_weight}


def normalization_of(model: models.FaceModel, options: EvaluationConfig) -> ScoreNormalization | None:
    """Return what makes scores comparable; None: they are as they come."""
    return None if options.score_normalization == "none" else model.normalization_with(weights_of(options))


def load_model(options: EvaluationConfig) -> models.FaceModel:
    """Return the model to evaluate.

    Raises:
        FileNotFoundError, ValueError: if the options ask for what is not there: a model, a folder, a matcher.
    """
    if options.map_dir is not None and not Path(options.map_dir).is_dir():
        raise FileNotFoundError(f"--map-dir {options.map_dir}: no such folder")
    model = models.load(options.model_path, options.arch, options.color_space, options.encoder)
    if options.shortlist and model.matcher is None:
        raise ValueError(f"--shortlist is for the local matcher, which {options.model_path} has not; leave it out")
    return model


def further_results(
    sources: Sequence[ImageSet], scored: Mapping[str, ImageScores], fuse: Callable[..., SetResults]
) -> list[Callable[[], SetResults]]:
    """Return what evaluates the occluded pairs of each further draw of occluders."""
    num = len(scored[sources[0].name].further)
    return [
        partial(fuse, sources, {name: {"occluded": found.further[draw].scores} for name, found in scored.items()})
        for draw in range(num)
    ]


def searches(
    source: ImageSet, scored: ImageScores, results: Mapping[str, MethodResults], fuse: Callable[..., SetResults]
) -> Iterator[Search]:
    """Yield what a search needs of each draw of occluders; without occluders once, nothing of the occluded pairs."""

    def occluded(scores: Scores) -> MethodResults:
        return fuse([source], {source.name: {"occluded": scores}})[source.name]["occluded"] if scores else {}

    yield Search(results.get("occluded", {}), occluded(scored.exchanged) or None)
    for drawn in scored.further:
        yield Search(occluded(drawn.scores), occluded(drawn.exchanged) or None)


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
        Scoring(model.matcher, normalization_of(model, options)),
        [
            partial(occlude_images, keys=source.keys, options=replace(options, seed=seed))
            for seed in draw_seeds(options)
        ],
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


def draw_seeds(options: EvaluationConfig) -> list[int]:
    """Return the seed of each draw of occluders; the first is `--seed`, and each can be given as that."""
    if options.occlude == "none":
        return []
    further = np.random.SeedSequence(options.seed).generate_state(options.occlusion_draws - 1)
    return [options.seed, *further.tolist()]


def occlude_images(
    images: NDArray[np.uint8], keys: Sequence[tuple[int, ...]], options: EvaluationConfig
) -> NDArray[np.uint8]:
    """Return the images occluded; the occluder of an image follows the seed and its key."""
    draws = (np.random.default_rng((options.seed, *key)) for key in keys)
    return np.stack(
        [transforms.occlude(image, rng, options.occluders).image for image, rng in zip(images, draws, strict=True)]
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
        "encoder": model.encoder,
        "head": model.head_name,
        "data": options.data_path,
        "occlude": options.occlude,
        "occluders": options.occluders if options.occlude != "none" else (),
        "shortlist": options.shortlist,
        "map_dtype": options.map_dtype,
        "seed": options.seed,
        "versions": runs.versions(),
        "fusion_weights": weights_of(options),
        "fusion_source": fusion_source,
        "matched": {name: f"{int(seen.sum()):,} of {seen.size:,} pairs" for name, seen in matched.items()}
        or "all pairs",
        **sources[0].facts,
    }
    if options.occlusion_draws > 1:
        drawn = f"means over {options.occlusion_draws} draws, which the intervals resample like people"
        first = "histograms, DET, groups and hardest pairs are of the first draw alone"
        facts["occlusion_draws"] = f"{drawn}; {first}; seeds {', '.join(map(str, draw_seeds(options)))}"
    if sources[0].paths:
        facts["pairs"] = options.pairs or "all unordered pairs of images, each once, none with itself"
        facts["folds"] = "stratified, seeded" if options.pairs is None else "of the pair list, else stratified"
    return facts
