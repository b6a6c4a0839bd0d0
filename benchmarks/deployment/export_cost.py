"""What a checkpoint loses in fewer bits: TAR, accuracy, size and time, with intervals over people.

Run as `python -m benchmarks export_cost --model_path last.ckpt --threads 1`; it needs onnx, onnxscript and onnxruntime.
Drawn people of whom no training knows are compared, every score of the model counts; int8 is calibrated with others.
Each model has thresholds of its own. Times are those of onnxruntime beside torch, both in turns.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from functools import partial
from statistics import median
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

import models
from benchmarks.harness.measure import alternate, ratio
from benchmarks.harness.program import Benchmark, scaled
from benchmarks.harness.tables import Column, Row, Table
from datasets.synthetic.prepare import render_identities
from evaluation import Interval, Resampling, paired_bootstrap, stratified_folds, tar_at_far, verification
from evaluation.protocols.bootstrap import accuracy_measure, tar_measure
from models import FaceModel
from models.onnx import graphs, precision
from models.onnx.sessions import SessionModel
from models.onnx.wrapped import Form
from models.portraits import Scores, describe_portraits, score_listed
from models.split_pairs import draw
from transforms import to_tensor

PEOPLE, IMAGES, CALIBRATION = 160, 5, 40
MAX_PAIRS, FOLDS = 100_000, 10
BATCHES = (1, 8)

COST = Table(
    "export_cost",
    (
        Column("precision", "precision", width=9),
        Column("score", "score", width=12),
        Column("TAR, %", "tar", "{:.2f}"),
        Column("points lost", "tar_lost", width=22),
        Column("accuracy, %", "accuracy", "{:.2f}"),
        Column("points lost", "accuracy_lost", width=22),
    ),
)
SIZE = Table(
    "export_size",
    (
        Column("precision", "precision", width=9),
        Column("model.onnx, MiB", "mib", "{:.2f}"),
        Column("least cosine", "cosine", "{:.6f}"),
        *(Column(f"time of {batch} / torch", f"ratio_{batch}", "{:.2f}x") for batch in BATCHES),
        *(Column(f"ms of {batch}", f"ms_{batch}", "{:.1f}") for batch in BATCHES),
    ),
)


class Pairs(NamedTuple):
    """Crops uint8 [N, 112, 112, 3], pairs int64 [M, 2] of places, whom each shows, and whether that is one person."""

    crops: NDArray[np.uint8]
    pairs: NDArray[np.int64]
    people: NDArray[np.int64]
    issame: NDArray[np.bool_]


def draw_pairs(scale: float) -> Pairs:
    """Return pairs of drawn people, whom no run has been trained on."""
    crops, labels = render_identities("export-cost", scaled(PEOPLE, scale, least=6), IMAGES)
    pairs = draw(labels, np.arange(len(labels)), MAX_PAIRS, np.random.default_rng(0))
    people = labels[pairs]
    return Pairs(crops, pairs, people, people[:, 0] == people[:, 1])


def in_precisions(model: FaceModel, scale: float) -> Iterator[tuple[str, SessionModel, int]]:
    """Yield a model in float32, int8 and fp16 as onnxruntime has it, and the bytes of its graph."""
    crops, _ = render_identities("export-calibration", scaled(CALIBRATION, scale, least=4), 2)
    whole = graphs.export_describe(model)
    small, _ = precision.quantized(whole, crops, Form())
    half = graphs.export_describe(model, Form(half=True))
    for name, graph in (("float32", whole), ("fp16", half), ("int8", small)):
        yield name, SessionModel(model, graph, Form(half=name == "fp16"), name), graph.ByteSize()


def cost_rows(name: str, before: Scores, after: Scores, pairs: Pairs, far: float) -> Iterator[Row]:
    """Yield what fewer bits cost, by score: the TAR of all pairs, the accuracy of as many impostors as genuine ones."""
    issame = pairs.issame
    alike = issame | (np.cumsum(~issame) <= issame.sum())
    folds = stratified_folds(issame[alike], min(FOLDS, int(issame.sum())))
    for score in before:
        first, second = before[score], after[score]
        tar = paired_bootstrap(first, second, issame, tar_measure(far), Resampling(pairs.people))
        accuracy = paired_bootstrap(
            first[alike], second[alike], issame[alike], accuracy_measure(folds), Resampling(pairs.people[alike])
        )
        yield {
            "precision": name,
            "score": score,
            "tar": 100 * tar_at_far(second, issame, [far])[far],
            "tar_lost": _points(tar),
            "accuracy": 100 * verification(second[alike], issame[alike], folds).accuracy,
            "accuracy_lost": _points(accuracy),
        }


def size_row(name: str, model: FaceModel, after: SessionModel, num_bytes: int, repeats: int, cosine: float) -> Row:
    """Return the size of a graph and its time over torch's, at every batch."""
    row: dict[str, Any] = {"precision": name, "mib": num_bytes / 2**20, "cosine": cosine}
    for batch in BATCHES:
        images = to_tensor(torch.randint(0, 256, (batch, 112, 112, 3), dtype=torch.uint8))
        runs = alternate({"torch": partial(model.describe, images), "ort": partial(after.describe, images)}, repeats)
        row[f"ms_{batch}"] = 1000 * median(runs["ort"])
        row[f"ratio_{batch}"] = ratio(median(runs["ort"]), median(runs["torch"]))
    return row


def _points(lost: Interval) -> str:
    return f"{100 * lost.estimate:+.2f} [{100 * lost.lower:+.2f}, {100 * lost.upper:+.2f}]"


def _measure(args: argparse.Namespace) -> Iterator[tuple[Table, Row]]:
    model = models.load(args.model_path)
    pairs = draw_pairs(args.scale)
    before = describe_portraits(model, pairs.crops)
    scores = score_listed(model, before.faces, pairs.pairs)
    sizes = []
    for name, after, num_bytes in in_precisions(model, args.scale):
        found = describe_portraits(after, pairs.crops)
        cosine = float((before.faces.embedding * found.faces.embedding).sum(1).min())
        for row in cost_rows(name, scores, score_listed(after, found.faces, pairs.pairs), pairs, args.far):
            yield COST, row
        sizes.append(size_row(name, model, after, num_bytes, args.repeats, cosine))
    for row in sizes:
        yield SIZE, row


BENCHMARK = Benchmark((COST, SIZE), _measure)
