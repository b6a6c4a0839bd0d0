"""Evaluation of sets with a protocol of their own: probes among a gallery, and templates of images.

`cli.folder_evaluation` does what is a list of pairs of images; here images are described one by one, by their
embeddings alone, and pairs of templates go through the one evaluator.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

import models
import transforms
from cli.folder_evaluation import begin, choose_device, load_model, lower_precision, normalization_of, run
from config import EvaluationConfig
from datasets import TemplateSet, UnreadableImageError, open_janus, warn_of_unaligned
from datasets.benchmarks.janus import janus_name
from datasets.benchmarks.searches import DISTRACTOR, opener_of_search
from datasets.progress import tracked
from datasets.sample import Image
from engine import runs
from engine.files import WriteFailures, side_file
from evaluation import (
    FARS,
    Identification,
    ScoreNormalization,
    identify,
    join_searches,
    pool_templates,
    score_templates,
    tar_at_nearest_far,
)
from evaluation.report import Results, draw_report, format_report, read_results, write_report
from evaluation.report.page import write_page
from evaluation.report.results import format_searches, to_primitive
from evaluation.report.searches import Roles, search_entry, search_results
from evaluation.run import build_results, evaluate
from evaluation.scores.comparable import comparable_search
from system.cores import at_most_cores
from system.files import write_text
from system.terminal import show

logger = logging.getLogger(__name__)

# A fit to pairs of single images tells what impostors score who are hidden so much. A template of several images hides
# only what all of them hide, and its mean is closer to every other face: neither share nor spread would be those of the
# fit. Pooled shares are therefore not put in place of an image's.
RAW_TEMPLATES = (
    "none: templates are compared by raw cosines; what a checkpoint knows of scores is of pairs of single images, not"
    " of templates that pool several"
)
_CELLS = 2**24  # scores of probes with a gallery held at a time

# (scores [p, G], which of the probes they are of) -> the same, normalized
Normalize: TypeAlias = Callable[[NDArray[np.float32], slice], NDArray[np.float32]]


class Images(Protocol):
    """Images that are read one by one."""

    def __len__(self) -> int: ...

    def read(self, index: int) -> Image:
        """Return uint8 [112, 112, 3] RGB; raises UnreadableImageError."""


class Embedded(NamedTuple):
    """What a network says of M images, of which R can be read.

    Attributes:
        features: float32 [R, D], the sum of those of image and mirror image, not normalized: the length tells quality.
        readable: bool [M].
        cells: float32 [R, K], visibility of all cells of image and mirror image; None where it is not predicted.
    """

    features: NDArray[np.float32]
    readable: NDArray[np.bool_]
    cells: NDArray[np.float32] | None


@dataclass(frozen=True, eq=False)
class TemplatePairs:
    """Pairs of templates as a source of the one evaluator."""

    name: str
    issame: NDArray[np.bool_]
    identities: NDArray[np.int64] | None
    checksum_text: str
    folds: NDArray[np.int64] | None = None

    def checksum(self) -> str:
        """Return what tells which pairs these are."""
        return self.checksum_text


def runner_of(options: EvaluationConfig) -> Callable[[EvaluationConfig], int]:
    """Return what evaluates the path: the layout decides.

    Raises:
        ValueError: if an option is given that means nothing there.
    """
    path = Path(options.data_path)
    if janus_name(path) is None and opener_of_search(path) is None:
        return run
    given = {
        "--pairs": options.pairs is not None,
        "--groups": options.groups is not None,
        "--occlude": options.occlude != "none",
        "--shortlist": options.shortlist > 0,
    }
    if named := [name for name, is_given in given.items() if is_given]:
        raise ValueError(f"{', '.join(named)}: {path} has a protocol of its own, without it; leave it out")
    return run_search if janus_name(path) is None else run_templates


def run_search(options: EvaluationConfig) -> int:
    """Search the probes of TinyFace, ROF or RMFRD in their gallery, write the report and return the exit code."""
    folder, lock, failures, options = begin(options)
    model = load_model(options)
    path = Path(options.data_path)
    opener = opener_of_search(path)
    assert opener is not None
    images = opener(path)
    alignment = warn_of_unaligned(images)
    features, readable, cells = embed(model, images, options)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    known = None if cells is None else normalization_of(model, options)
    row_of = np.cumsum(readable) - 1
    by_entry = bool((images.labels == DISTRACTOR).any())
    gallery = images.gallery[readable[images.gallery]]
    searches = {}
    for kind, places in images.probes.items():
        probes = places[readable[places]]
        rows, columns = row_of[probes], row_of[gallery]
        normalize = None if known is None or cells is None else comparable(cells[rows], cells[columns], known)
        people = images.labels[probes], images.labels[gallery]
        found = search_all(features[rows], features[columns], *people, by_entry, normalize)
        roles = Roles(kind, images.gallery_kind, len(gallery))
        searches[f"{kind} in the gallery"] = search_entry(found, images.labels[probes], roles, options.seed)
    facts = {"alignment": str(alignment), **images.facts}
    facts["score_normalization"] = "none" if known is None else f"checkpoint, by what is visible: {known.source}"
    searched = _searched(images.checksum(), by_entry, searches)
    report = search_results(images.name, searched, {**_facts(options, model, readable), **facts}, options.seed)
    write_searches(folder, report, failures, options.anonymous)
    lock.close()
    return failures.exit_code()


def run_templates(options: EvaluationConfig) -> int:
    """Evaluate the templates of IJB-B or IJB-C, 1:1 and 1:N, write the report and return the exit code."""
    folder, lock, failures, options = begin(options)
    model = load_model(options)
    images = open_janus(Path(options.data_path))
    features, readable, _ = embed(model, images, options)
    scores = images.detector_scores[readable] if options.detector_scores else None
    of_images = images.templates[readable], images.medias[readable]
    ids, pooled = pool_templates(features, *of_images, scores, options.keep_norm)
    facts = {
        **_facts(options, model, readable),
        "keep_norm": options.keep_norm,
        "detector_scores": options.detector_scores,
        "score_normalization": RAW_TEMPLATES,
    }
    report = _verify_templates(images, ids, pooled, options, facts)
    if images.probes is not None and images.galleries:
        searches = _search_templates(images, ids, pooled, options.seed)
        report["searches"] = {images.name: _searched(images.checksum(), False, searches)}
    else:
        logger.warning("%s: no lists of the search (1N) in meta/; templates are compared 1:1 only", options.data_path)
    write_searches(folder, report, failures, options.anonymous)
    lock.close()
    return failures.exit_code()


def embed(model: models.FaceModel, images: Images, options: EvaluationConfig) -> Embedded:
    """Return what the network says of the images that can be read.

    Raises:
        ValueError: if no image can be read.
    """
    device, dtype = choose_device(options), lower_precision(options)
    model.to(device)
    readable = np.zeros(len(images), dtype=np.bool_)
    parts: list[NDArray[np.float32]] = []
    cells: list[NDArray[np.float32]] = []
    failures: list[str] = []

    def read(index: int) -> Image | UnreadableImageError:
        try:
            return images.read(index)
        except UnreadableImageError as error:
            return error

    with (
        ThreadPool(max(1, at_most_cores(options.num_workers))) as pool,
        torch.inference_mode(),
        torch.autocast(device.type, dtype, enabled=dtype is not None),
    ):
        for start in tracked(range(0, len(images), options.batch_size), "describing images"):
            places = range(start, min(start + options.batch_size, len(images)))
            answers = pool.map(read, places)
            failures += [str(answer) for answer in answers if isinstance(answer, UnreadableImageError)]
            good = [answer for answer in answers if not isinstance(answer, UnreadableImageError)]
            readable[places.start : places.stop] = [not isinstance(a, UnreadableImageError) for a in answers]
            if good:
                batch = transforms.to_tensor(torch.from_numpy(np.stack(good)).to(device))
                both = [model.describe(view) for view in (batch, batch.flip(-1))]
                seen = [d.visibility.flatten(1).float() for d in both if d.visibility is not None]
                cells += [torch.cat(seen, dim=1).cpu().numpy()] if seen else []
                parts.append(sum(d.embedding.float() * d.norm.float() for d in both).cpu().numpy())  # type: ignore[union-attr]
    if not parts:
        raise ValueError(f"{options.data_path}: no image can be read; the first: {failures[0]}")
    if failures:
        logger.warning("%d of %d images are left out; the first: %s", len(failures), len(images), failures[0])
    return Embedded(np.concatenate(parts), readable, np.concatenate(cells) if cells else None)


def comparable(probes: NDArray[np.float32], gallery: NDArray[np.float32], known: ScoreNormalization) -> Normalize:
    """Return what normalizes scores of some of the probes with the gallery, from the visibility of all cells."""
    return lambda scores, block: comparable_search(scores, probes[block], gallery, known)


def search_all(
    probes: NDArray[np.float32],
    gallery: NDArray[np.float32],
    probe_people: NDArray[np.int64],
    gallery_people: NDArray[np.int64],
    by_entry: bool,
    normalize: Normalize | None = None,
) -> Identification:
    """Search unit features [P, D] in those of a gallery [G, D], block by block; scores of a block may be normalized."""
    step = max(1, _CELLS // max(1, len(gallery)))
    starts = tracked(range(0, len(probes), step), "searching")
    parts = []
    for start in starts:
        block = slice(start, start + step)
        scores = probes[block] @ gallery.T
        scores = scores if normalize is None else normalize(scores, block)
        parts.append(identify(scores, probe_people[block], gallery_people, by_entry))
    return join_searches(parts)


def write_searches(folder: Path, report: Results, failures: WriteFailures, anonymous: bool) -> None:
    """Write the report with its page, and beside it identification.json and identification.txt of its searches."""
    write_report(folder, report)
    for name, found in (report.get("searches") or {}).items():
        facts = {**report["protocol"], "ranks_count": found["ranks_count"]}
        content = {"schema": 1, "set": name, "checksum": found["checksum"], "searches": found["entries"]}
        text = json.dumps(to_primitive({**content, "protocol": facts}), indent=1, allow_nan=False)
        write_text(folder / "identification.json", f"{text}\n")
        write_text(folder / "identification.txt", format_searches(name, found))
    with side_file(failures, f"{folder.name} pictures"):
        results = read_results(folder / "results.json")
        if report["benchmarks"]:
            draw_report(folder, results, anonymous=anonymous)
        else:
            write_page(folder, results, anonymous=anonymous)
    show(format_report(report))
    show(f"report: {folder}")


def _searched(checksum: str, by_entry: bool, entries: Mapping[str, object]) -> dict[str, object]:
    return {"checksum": checksum, "ranks_count": "images" if by_entry else "people", "entries": entries}


def _verify_templates(
    images: TemplateSet,
    ids: NDArray[np.int64],
    pooled: NDArray[np.floating],
    options: EvaluationConfig,
    facts: Mapping[str, object],
) -> Results:
    source = TemplatePairs(images.name, images.issame, images.identities, images.checksum())
    scores = score_templates(ids, pooled, images.first, images.second).astype(np.float32)
    results = evaluate([source], {source.name: {"clean": {"adaface": scores}}}, {"adaface": 1.0})
    nearest = tar_at_nearest_far(scores, source.issame, options.fars or FARS)
    protocol = {
        **facts,
        "tar_at_nearest_far": {f"{far:g}": round(tar, 6) for far, tar in nearest.items()},
    }
    return build_results([source], results, protocol, seed=options.seed, fars=options.fars)


def _search_templates(
    images: TemplateSet, ids: NDArray[np.int64], pooled: NDArray[np.floating], seed: int
) -> dict[str, object]:
    """Return the search of the probes in each gallery, whose people the other one lacks, and in both joined."""
    assert images.probes is not None
    galleries = {name: [enrolled] for name, enrolled in images.galleries.items()}
    if len(galleries) > 1:
        galleries[" and ".join(galleries)] = [*images.galleries.values()]

    def sides(lists: Sequence[Any]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        templates = np.concatenate([one.templates for one in lists])
        there = np.isin(templates, ids)
        people = np.concatenate([one.people for one in lists])[there]
        return pooled[np.searchsorted(ids, templates[there])].astype(np.float32), people

    probes, people = sides([images.probes])
    searches: dict[str, object] = {}
    for name, lists in galleries.items():
        gallery, enrolled = sides(lists)
        found = search_all(probes, gallery, people, enrolled, by_entry=False)
        roles = Roles("templates of probes", f"templates of {name}", len(gallery))
        searches[f"probes in {name}"] = search_entry(found, people, roles, seed)
    return searches


def _facts(options: EvaluationConfig, model: models.FaceModel, readable: NDArray[np.bool_]) -> dict[str, object]:
    return {
        "model": options.model_path,
        "head": model.head_name,
        "data": options.data_path,
        "flip_fusion": "sum of the unnormalized features of image and mirror image",
        "fusion_weights": {"adaface": 1.0},
        "fusion_source": "the embedding alone",
        "unreadable": int((~readable).sum()),
        "seed": options.seed,
        "versions": runs.versions(),
    }
