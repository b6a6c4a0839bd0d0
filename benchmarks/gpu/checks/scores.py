"""Evaluation on the device against the CPU: descriptions with flip, stores of maps, scores of pairs, searches."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch import Tensor

from benchmarks.gpu.case import Case, Cases, Figures, expect
from benchmarks.gpu.checks import programs
from benchmarks.gpu.checks.exported import face_model
from benchmarks.gpu.checks.networks import images
from datasets.clustering.nearest import SearchSettings, neighbours
from evaluation import MAP_DTYPES, FaceDescriptions, describe_batches, score_all_pairs, score_pair_list, search
from models import FaceModel, Gallery, Plan, calibrate

NUM_IMAGES, BATCH, TOP = 24, 10, 5
OF_SCORES = 5e-3  # over the scores' standard deviation; a rounded map may find another cell
NUM_EMBEDDINGS, DIM = 4000, 64


def twins(device: torch.device) -> tuple[FaceModel, FaceModel]:
    """Return a model on the CPU and its copy on the device."""
    ours = face_model()
    return ours, copy.deepcopy(ours).to(device)


def batches(given: Tensor, device: torch.device) -> Iterator[Tensor]:
    """Yield images in batches on the device."""
    for part in given.split(BATCH):
        yield part.to(device)


def described(model: FaceModel, given: Tensor, dtype: str, folder: Path | None = None) -> FaceDescriptions:
    """Return the descriptions of images on the model's device, maps held in a dtype, in a file if there is a folder."""
    found = batches(given, model.device)
    return describe_batches(model.describe, found, len(given), map_dtype=MAP_DTYPES[dtype], folder=folder)


def held_bytes(faces: FaceDescriptions) -> int:
    """Return the bytes of embeddings, maps and visibilities."""
    tensors = [faces.embedding, *(tensor for view in faces.views for tensor in view if tensor is not None)]
    return sum(tensor.nbytes for tensor in tensors)


@torch.inference_mode()
def check_store(dtype: str, on_disk: bool, device: torch.device) -> Figures:
    """Compare scores of all pairs, of a list of pairs and of a search; the maps lie where they should."""
    ours, theirs = twins(device)
    assert ours.matcher is not None and theirs.matcher is not None
    matchers = (ours.matcher, theirs.matcher)
    size = ours.model.input_size
    given = images(NUM_IMAGES, size, size)
    with TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder = Path(name) if on_disk else None
        wanted, found = described(ours, given, dtype, folder), described(theirs, given, dtype, folder)
        assert found.embedding.device.type == device.type
        place = "cpu" if on_disk else device.type
        assert all(view.local_map.device.type == place for view in found.views), f"maps are not on {place}"
        figures: Figures = {"bytes_an_image": held_bytes(found) / NUM_IMAGES}
        pairs = np.stack([np.arange(NUM_IMAGES), np.roll(np.arange(NUM_IMAGES), 1)], axis=1)
        sides = [*zip((wanted, found), matchers, strict=True)]
        scores = []
        for faces, matcher in sides:
            listed = score_pair_list(faces, pairs, matcher.match_pairs, 7)
            by_name = {f"all pairs, {name}": values for name, values in score_all_pairs(faces, matcher).items()}
            scores.append(by_name | {f"listed, {name}": values for name, values in listed.items()})
        for name, want in scores[0].items():
            difference = float(np.abs(scores[1][name] - want).max() / want.std())
            figures[name] = difference
            expect(name, difference, OF_SCORES if dtype == "float32" else 20 * OF_SCORES)
        for shortlist in (None, 2 * TOP):
            hits = [search(faces, None, TOP, matcher, shortlist=shortlist) for faces, matcher in sides]
            same = float((hits[1].indices.cpu() == hits[0].indices).double().mean())
            figures[f"hits, {shortlist or 'all'}"] = same
            expect("share of other hits", 1 - same, 0.1)
    return figures


def check_answers(device: torch.device) -> Figures:
    """A gallery and thresholds that the device finds must be those of the CPU."""
    people = Path(programs.faces()) / "train"
    probe = next(iter(sorted(people.rglob("*.jpg"))))
    answers = []
    for model in twins(device):
        gallery = Gallery(model)
        gallery.enrol(people)
        found, strangers = gallery.identify(probe, k=TOP), gallery.strangers()
        points = calibrate(model, people, plan=Plan(fars=(0.1,), num_draws=20)).points
        answers.append(
            {
                "candidates": np.array([each.score for each in found.candidates]),
                **{f"strangers, {name}": values for name, values in strangers.items()},
                **{f"threshold, {p.score}, {p.condition}": np.array(p.threshold) for p in points},
            }
        )
    wanted, there = answers
    assert wanted.keys() == there.keys(), f"other answers: {sorted(wanted.keys() ^ there.keys())}"
    figures = {name: float(np.abs(there[name] - want).max() / np.abs(want).max()) for name, want in wanted.items()}
    for name, difference in figures.items():
        expect(name, difference, 0.01)
    return figures


def check_neighbours(method: str, device: torch.device) -> Figures:
    """The neighbours of embeddings, for clusters, must be those that the CPU finds."""
    rng = np.random.default_rng(0)
    centers = rng.normal(size=(NUM_EMBEDDINGS // 8, DIM)).repeat(8, axis=0)
    rows = centers + 0.3 * rng.normal(size=centers.shape)
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    wanted, found = (
        neighbours(rows, 5, 0.5, method, SearchSettings(num_lists=20, device=place))
        for place in (torch.device("cpu"), device)
    )
    other = float((wanted.indices != found.indices).mean())
    expect("share of other neighbours", other, 0.001 if method == "exact" else 0.02)
    return {"other_neighbours": other, "mean_count": float((found.indices >= 0).sum(1).mean())}


def cases(on_gpu: bool) -> Cases:
    """Return the checks."""
    checks: dict[str, Callable[[torch.device], Figures]] = {
        f"scores: maps in {dtype}": partial(check_store, dtype, False) for dtype in MAP_DTYPES
    }
    checks["scores: maps in float16 in a file"] = partial(check_store, "float16", True)
    checks["scores: gallery and thresholds"] = check_answers
    checks |= {f"neighbours: {method}": partial(check_neighbours, method) for method in ("exact", "lists")}
    return {name: Case(check, 60.0) for name, check in checks.items()}
