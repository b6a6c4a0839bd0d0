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
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

import models
import transforms
from cli.folder_evaluation import begin, choose_device, load_model, lower_precision, run
from config import EvaluationConfig
from datasets import TemplateSet, UnreadableImageError, open_janus, warn_of_unaligned
from datasets.benchmarks.janus import janus_name
from datasets.benchmarks.searches import DISTRACTOR, opener_of_search
from datasets.progress import tracked
from datasets.sample import Image
from evaluation import (
    FARS,
    Identification,
    Resampling,
    identify,
    join_searches,
    pool_templates,
    rate_intervals,
    score_templates,
    tar_at_nearest_far,
)
from evaluation.report.results import aligned, format_report, to_primitive, write_report
from evaluation.run import build_results, evaluate
from system.cores import at_most_cores
from system.files import write_text
from system.terminal import printable, show

logger = logging.getLogger(__name__)

RANKS = (1, 5, 10, 20)
FPIRS = (0.1, 0.01, 0.003)  # the last is the one of NIST's tables
NUM_RESAMPLES = 1000
_CELLS = 2**24  # scores of probes with a gallery held at a time


class Images(Protocol):
    """Images that are read one by one."""

    def __len__(self) -> int: ...

    def read(self, index: int) -> Image:
        """Return uint8 [112, 112, 3] RGB; raises UnreadableImageError."""


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
    features, readable = embed(model, images, options)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    row_of = np.cumsum(readable) - 1
    by_entry = bool((images.labels == DISTRACTOR).any())
    gallery = images.gallery[readable[images.gallery]]
    searches = {}
    for kind, places in images.probes.items():
        probes = places[readable[places]]
        sides = features[row_of[probes]], features[row_of[gallery]]
        found = search_all(*sides, images.labels[probes], images.labels[gallery], by_entry)
        searches[f"{kind} in the gallery"] = search_entry(found, images.labels[probes], len(gallery), options.seed)
    facts = {"alignment": str(alignment), "ranks_count": "images" if by_entry else "people", **images.facts}
    write_searches(folder, images.name, searches, {**_facts(options, model, readable), **facts}, images.checksum())
    lock.close()
    return failures.exit_code()


def run_templates(options: EvaluationConfig) -> int:
    """Evaluate the templates of IJB-B or IJB-C, 1:1 and 1:N, write the report and return the exit code."""
    folder, lock, failures, options = begin(options)
    model = load_model(options)
    images = open_janus(Path(options.data_path))
    features, readable = embed(model, images, options)
    scores = images.detector_scores[readable] if options.detector_scores else None
    of_images = images.templates[readable], images.medias[readable]
    ids, pooled = pool_templates(features, *of_images, scores, options.keep_norm)
    facts = {
        **_facts(options, model, readable),
        "keep_norm": options.keep_norm,
        "detector_scores": options.detector_scores,
    }
    _verify_templates(folder, images, ids, pooled, options, facts)
    if images.probes is not None and images.galleries:
        searches = _search_templates(images, ids, pooled, options.seed)
        write_searches(folder, images.name, searches, {**facts, "ranks_count": "people"}, images.checksum())
    else:
        logger.warning("%s: no lists of the search (1N) in meta/; templates are compared 1:1 only", options.data_path)
    lock.close()
    return failures.exit_code()


def embed(
    model: models.FaceModel, images: Images, options: EvaluationConfig
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return the features [R, D] of the images that can be read, and which those are, bool [M].

    A feature is the sum of those of image and mirror image, not normalized: its length tells quality.

    Raises:
        ValueError: if no image can be read.
    """
    device, dtype = choose_device(options), lower_precision(options)
    model.to(device)
    readable = np.zeros(len(images), dtype=np.bool_)
    parts: list[NDArray[np.float32]] = []
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
                parts.append(sum(d.embedding.float() * d.norm.float() for d in both).cpu().numpy())  # type: ignore[union-attr]
    if not parts:
        raise ValueError(f"{options.data_path}: no image can be read; the first: {failures[0]}")
    if failures:
        logger.warning("%d of %d images are left out; the first: %s", len(failures), len(images), failures[0])
    return np.concatenate(parts), readable


def search_all(
    probes: NDArray[np.float32],
    gallery: NDArray[np.float32],
    probe_people: NDArray[np.int64],
    gallery_people: NDArray[np.int64],
    by_entry: bool,
) -> Identification:
    """Search unit features [P, D] in those of a gallery [G, D], block by block."""
    step = max(1, _CELLS // max(1, len(gallery)))
    starts = tracked(range(0, len(probes), step), "searching")
    blocks = (slice(start, start + step) for start in starts)
    parts = [identify(probes[b] @ gallery.T, probe_people[b], gallery_people, by_entry) for b in blocks]
    return join_searches(parts)


def search_entry(found: Identification, people: NDArray[np.int64], num_gallery: int, seed: int) -> dict[str, object]:
    """Return what a search comes to, with intervals over the people of the probes."""
    known = people[found.known]
    pairs = np.stack([known, known], axis=1)
    resampling = Resampling(pairs, NUM_RESAMPLES, seed) if len(set(known.tolist())) > 1 else Resampling(num_resamples=0)
    rank = found.rank()
    everyone = np.ones(len(known), dtype=np.bool_)
    cmc = {str(r): rate_intervals(rank <= r, everyone, resampling).tar._asdict() for r in RANKS}
    entry: dict[str, object] = {
        **{name: value for name, value in found.to_dict().items() if name.startswith("num_")},
        "num_gallery": num_gallery,
        "ties": "pessimistic",
        "cmc": cmc,
    }
    if not found.known.all():
        entry["tpir_at_fpir"] = {
            f"{fpir:g}": {"rank_1": found.tpir_at_fpir(fpir, 1), "any_rank": found.tpir_at_fpir(fpir)} for fpir in FPIRS
        }
    return entry


def write_searches(
    folder: Path, name: str, searches: Mapping[str, Any], facts: Mapping[str, object], checksum: str
) -> None:
    """Write identification.json and identification.txt and show the latter."""
    content = {"schema": 1, "set": name, "checksum": checksum, "searches": searches, "protocol": facts}
    text = json.dumps(to_primitive(content), indent=1, allow_nan=False)
    write_text(folder / "identification.json", f"{text}\n")
    lines = [f"{name}: searches; of equal scores the other person comes first", ""]
    rows = [["search", "probes", "strangers", "gallery", *(f"rank {rank} %" for rank in RANKS)]]
    for title, entry in searches.items():
        counts = [f"{entry[key]:,}" for key in ("num_probes", "num_strangers", "num_gallery")]
        rows.append([title, *counts, *(_percent(entry["cmc"][str(rank)]) for rank in RANKS)])
    lines += aligned(rows)
    for title, entry in searches.items():
        for fpir, rates in entry.get("tpir_at_fpir", {}).items():
            fnirs = [f"FNIR {100 * (1 - rate):.2f} % {what}" for what, rate in rates.items() if rate == rate]
            told = ", ".join(fnirs).replace("_", " ") or f"not resolved by {entry['num_strangers']} strangers"
            lines.append(f"{title}, FPIR {fpir}: {told}")
    lines += ["", *(f"  {key}: {printable(str(value))}" for key, value in facts.items()), f"  checksum: {checksum}"]
    write_text(folder / "identification.txt", "\n".join(lines) + "\n")
    show("\n".join(lines))
    show(f"report: {folder}")


def _verify_templates(
    folder: Path,
    images: TemplateSet,
    ids: NDArray[np.int64],
    pooled: NDArray[np.floating],
    options: EvaluationConfig,
    facts: Mapping[str, object],
) -> None:
    source = TemplatePairs(images.name, images.issame, images.identities, images.checksum())
    scores = score_templates(ids, pooled, images.first, images.second).astype(np.float32)
    results = evaluate([source], {source.name: {"clean": {"adaface": scores}}}, {"adaface": 1.0})
    nearest = tar_at_nearest_far(scores, source.issame, options.fars or FARS)
    protocol = {
        **facts,
        "fusion_weights": {"adaface": 1.0},
        "fusion_source": "the embedding alone",
        "tar_at_nearest_far": {f"{far:g}": round(tar, 6) for far, tar in nearest.items()},
    }
    report = build_results([source], results, protocol, seed=options.seed, fars=options.fars)
    write_report(folder, report)
    show(format_report(report))


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
        searches[f"probes in {name}"] = search_entry(found, people, len(gallery), seed)
    return searches


def _facts(options: EvaluationConfig, model: models.FaceModel, readable: NDArray[np.bool_]) -> dict[str, object]:
    return {
        "model": options.model_path,
        "head": model.head_name,
        "data": options.data_path,
        "flip_fusion": "sum of the unnormalized features of image and mirror image",
        "unreadable": int((~readable).sum()),
        "seed": options.seed,
    }


def _percent(interval: Mapping[str, Any]) -> str:
    return "{:.2f} [{:.2f}, {:.2f}]".format(*(100 * interval[key] for key in ("estimate", "lower", "upper")))
