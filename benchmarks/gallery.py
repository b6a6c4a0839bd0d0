"""Galleries of compact maps: what rounding them does to scores, what a search costs with and without short list.

Run as `python -m benchmarks gallery`. Without `--model_path` the network is an untrained ir_tiny: times and memory mean
the same, accuracy and recall nothing. The faces are synthetic; a second set of images, behind occluders that training
knows, is matched with the clean one.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

import models
import transforms
from benchmarks.ablation.scores import IMAGES_PER_PERSON, Faces, hide, render_people
from benchmarks.ablation.variants import SEEN
from benchmarks.harness.measure import MIB, alternate, measure_extra_mib, ratio
from benchmarks.harness.program import Benchmark, scaled
from benchmarks.harness.tables import Column, Row, Table
from cli.checkpoints import load_pretrained_model
from config import Config
from evaluation import (
    MAP_DTYPES,
    FaceDescriptions,
    Hits,
    auc,
    describe_batches,
    score_all_pairs,
    search,
    stratified_folds,
    unordered_pairs,
    verification,
)
from models import gallery_file, portraits
from models.templates import pool
from options.model import NetworkOptions
from options.names import ONLY_DATASET
from qaconv import QAConv
from train_val import Recognizer

NUM_PEOPLE = 100
NUM_PROBES = 40
NUM_ENROLLED = 100_000
SHORTLISTS = (100, 20)
BATCH_SIZE = 64

STORAGE = Table(
    "gallery_storage",
    (
        Column("maps", "dtype", width=9),
        Column("KiB/image", "kib", "{:.1f}"),
        Column("largest change", "largest", "{:.4f}"),
        Column("mean change", "mean", "{:.4f}"),
        Column("accuracy %", "accuracy", "{:.2f}"),
        Column("AUC", "auc", "{:.5f}"),
    ),
)
SEARCH = Table(
    "gallery_search",
    (
        Column("search", "what", width=28),
        Column("time", "time_ratio", "{:.2f}x"),
        Column("recall %", "recall", "{:.1f}"),
        Column("s", "seconds", "{:.3f}"),
        Column("extra MiB", "extra_mib", "{:,.0f}"),
        Column("gallery MiB", "gallery_mib", "{:,.1f}"),
    ),
)
PEOPLE = Table(
    "gallery_people",
    (
        Column("gallery", "what", width=28),
        Column("s/probe", "seconds", "{:.3f}"),
        Column("of it describing", "describe_seconds", "{:.3f}"),
        Column("load s", "load_seconds", "{:.2f}"),
        Column("file MiB", "gallery_mib", "{:,.0f}"),
    ),
)


class Variant(NamedTuple):
    """A way to search."""

    dtype: str
    on_disk: bool
    shortlist: int | None

    @property
    def title(self) -> str:
        """What the table calls it."""
        listed = "all" if self.shortlist is None else f"short list of {self.shortlist}"
        return f"{self.dtype}{' on disk' if self.on_disk else ''}, {listed}"


def build_model(path: str | None) -> Recognizer:
    """Return the checkpoint's model, or an untrained one."""
    if path is not None:
        return load_pretrained_model(path)
    torch.manual_seed(0)
    return Recognizer(Config(arch="ir_tiny", gpus=0).to_dict(), {ONLY_DATASET: 2}).eval()


def describe(model: Recognizer, images: NDArray[np.uint8], dtype: str, folder: Path | None = None) -> FaceDescriptions:
    """Return the images' descriptions with maps held in dtype."""
    batches = (
        transforms.to_tensor(torch.from_numpy(images[start : start + BATCH_SIZE]))
        for start in range(0, len(images), BATCH_SIZE)
    )
    return describe_batches(model.describe, batches, len(images), map_dtype=MAP_DTYPES[dtype], folder=folder)


def held_bytes(faces: FaceDescriptions) -> int:
    """Return the bytes of embeddings, maps and visibilities."""
    tensors = [faces.embedding, *(tensor for view in faces.views for tensor in view if tensor is not None)]
    return sum(tensor.nbytes for tensor in tensors)


def storage_rows(model: Recognizer, matcher: QAConv, people: Faces) -> Iterator[Row]:
    """Yield for each dtype how far the scores of clean against occluded images are from those of float32.

    Changes are in standard deviations of the impostors' scores, so that they mean the same for every matcher.
    """
    first, second = unordered_pairs(len(people.images)).T // IMAGES_PER_PERSON
    issame, hidden = first == second, hide(people, SEEN, 0)
    folds = stratified_folds(issame, 10)
    exact, spread = None, 1.0
    for dtype in MAP_DTYPES:
        clean, occluded = (describe(model, faces.images, dtype) for faces in (people, hidden))
        scores = score_all_pairs(clean, matcher, others=occluded)["qaconv"]
        if exact is None:
            exact, spread = scores, float(scores[~issame].std())
        change = np.abs(scores - exact) / spread
        yield {
            "dtype": dtype,
            "kib": held_bytes(clean) / clean.num_images / 1024,
            "largest": float(change.max()),
            "mean": float(change.mean()),
            "accuracy": 100 * verification(scores, issame, folds).accuracy,
            "auc": auc(scores, issame),
        }


def recall(found: Hits, exact: Hits) -> float:
    """Return the share of probes in percent whose best image is that of the exact search."""
    return 100 * float((found.indices[:, 0] == exact.indices[:, 0]).float().mean())


def search_rows(model: Recognizer, matcher: QAConv, people: Faces, folder: Path, repeats: int) -> Iterator[Row]:
    """Yield time, memory and recall of each variant; probes are occluded images, the gallery all clean ones."""
    images = people.images
    chosen = np.linspace(0, len(images) - 1, min(NUM_PROBES, len(images)), dtype=np.int64)
    probes = describe(model, hide(people, SEEN, 0).images[chosen], "float32")
    variants = [Variant(dtype, False, None) for dtype in MAP_DTYPES]
    variants += [Variant("int8", True, None), *(Variant("int8", True, number) for number in SHORTLISTS)]
    places = {(v.dtype, v.on_disk): folder if v.on_disk else None for v in variants}
    galleries = {key: describe(model, images, key[0], place) for key, place in places.items()}
    found: dict[Variant, Hits] = {}

    def run(variant: Variant) -> None:
        gallery = galleries[variant.dtype, variant.on_disk]
        found[variant] = search(probes, gallery, 1, matcher, variant.shortlist)

    seconds = alternate({v.title: lambda v=v: run(v) for v in variants}, repeats)  # type: ignore[misc]
    for variant in variants:
        runs = seconds[variant.title]
        yield {
            "what": variant.title,
            "time_ratio": ratio(median(runs), median(seconds[variants[0].title])),
            "recall": recall(found[variant], found[variants[0]]),
            "seconds": median(runs),
            "extra_mib": measure_extra_mib(lambda v=variant: run(v)),  # type: ignore[misc]
            "gallery_mib": held_bytes(galleries[variant.dtype, variant.on_disk]) / MIB,
            "runs": runs,
        }


def write_gallery(path: Path, model: models.FaceModel, images: NDArray[np.uint8], num_people: int) -> None:
    """Write a gallery of so many people: those of the images over and over, each with another embedding."""
    described = portraits.describe_portraits(model, images)
    templates = pool(described, np.arange(len(images)), "int8").rows(np.resize(np.arange(len(images)), num_people))
    noise = np.random.default_rng(0).normal(0, 0.02, templates.embedding.shape).astype(np.float32)
    embedding = templates.embedding + noise
    embedding /= np.linalg.norm(embedding, axis=1, keepdims=True)
    header = {
        "origin": portraits.origin_of(model, models.AS_GIVEN)._asdict(),
        "map_dtype": "int8",
        "names": [f"person {number}" for number in range(num_people)],
        "photographs": [f"{number}.png" for number in range(num_people)],
        "strangers": {name: [0.0] for name in portraits.scores_of(model)},
    }
    digests = np.arange(num_people).astype(np.uint8)[:, None].repeat(gallery_file.DIGEST_BYTES, axis=1)
    content = gallery_file.Content(header, replace(templates, embedding=embedding), digests, np.arange(num_people))
    gallery_file.write(path, content)


def people_rows(model: models.FaceModel, people: Faces, folder: Path, num_people: int, repeats: int) -> Iterator[Row]:
    """Yield how long one probe takes from its pixels to its candidates, the matcher on the short list included."""
    path, probe = folder / "gallery.npz", hide(people, SEEN, 0).images[0]
    write_gallery(path, model, people.images[:64], num_people)
    start = perf_counter()
    gallery = models.Gallery.load(path, model)
    load_seconds = perf_counter() - start
    ways = {
        "identify": lambda: gallery.identify(probe, score=portraits.scores_of(model)[-1]),
        "describe": lambda: portraits.describe_portraits(model, probe[None]),
    }
    seconds = alternate(ways, repeats)
    yield {
        "what": f"{num_people} people, int8",
        "seconds": median(seconds["identify"]),
        "describe_seconds": median(seconds["describe"]),
        "load_seconds": load_seconds,
        "gallery_mib": path.stat().st_size / MIB,
        "runs": seconds["identify"],
    }


def _face_model(path: str | None) -> models.FaceModel:
    if path is not None:
        return models.load(path)
    torch.manual_seed(0)
    return models.FaceModel(NetworkOptions(arch="ir_tiny")).eval()


def _measure(args: argparse.Namespace) -> Iterator[tuple[Table, Row]]:
    model = build_model(args.model_path)
    matcher = model.matcher
    if not isinstance(matcher, QAConv):
        raise SystemExit(f"{args.model_path} has no local matcher")
    people = render_people("test", scaled(NUM_PEOPLE, args.scale, least=6))
    with torch.inference_mode(), tempfile.TemporaryDirectory() as folder:
        for row in storage_rows(model, matcher, people):
            yield STORAGE, row
        for row in search_rows(model, matcher, people, Path(folder), args.repeats):
            yield SEARCH, row
    with tempfile.TemporaryDirectory() as folder:
        num_people = scaled(NUM_ENROLLED, args.scale, least=100)
        for row in people_rows(_face_model(args.model_path), people, Path(folder), num_people, args.repeats):
            yield PEOPLE, row


BENCHMARK = Benchmark((STORAGE, SEARCH, PEOPLE), _measure)
