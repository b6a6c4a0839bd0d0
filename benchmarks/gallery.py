"""Galleries of compact maps: what rounding them does to scores, what a search costs with and without short list.

Run as `python -m benchmarks gallery`. Without `--model_path` the network is an untrained ir_tiny: times and memory mean
the same, accuracy and recall nothing. The faces are synthetic; a second set of images, behind occluders that training
knows, is matched with the clean one.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

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
from qaconv import QAConv
from train_val import MAIN_DATASET, Recognizer

NUM_PEOPLE = 100
NUM_PROBES = 40
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
    return Recognizer(Config(arch="ir_tiny", gpus=0).to_dict(), {MAIN_DATASET: 2}).eval()


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


BENCHMARK = Benchmark((STORAGE, SEARCH), _measure)
