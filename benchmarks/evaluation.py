"""Figures of many pairs: the bootstrap over people, and all pairs of a set, against scikit-learn's ROC curve.

Run as `python -m benchmarks evaluation`. Scores are drawn at random: nothing is said of any model. The bootstrap
resamples 5,749 people of 6,000 pairs, as LFW has them, and decides at one threshold; the set is as large as LFW's
13,233 images, whose 87.5 million pairs are scored by embeddings of 512 numbers.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.harness.measure import Step, compare, ratio
from benchmarks.harness.program import Benchmark, scaled
from benchmarks.harness.tables import Column, Row, Table
from evaluation import FaceDescriptions, Resampling, auc, rate_intervals, score_all_pairs, tar_at_far

NUM_PAIRS, NUM_PEOPLE = 6000, 5749
EMBEDDING_SIZE = 512
FARS = (1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
FIGURES, PEER = "AUC and TAR at five FARs of all pairs", "scikit-learn's roc_curve of the same scores"

TABLE = Table(
    "evaluation",
    (
        Column("what", "what", width=46),
        Column("time", "time_ratio", "{:.2f}x"),
        Column("s", "seconds", "{:.3f}"),
        Column("extra MiB", "extra_mib", "{:,.0f}"),
        Column("pairs", "num_pairs", "{:,}", width=11),
        Column("resamples", "num_resamples", "{:,}"),
    ),
)


def draw_pairs(num_pairs: int, num_people: int) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Return issame [N], half of it True, and the people of both images [N, 2]."""
    issame = np.arange(num_pairs) < num_pairs // 2
    first = np.random.default_rng(0).integers(num_people, size=num_pairs)
    return issame, np.stack([first, np.where(issame, first, (first + 1) % num_people)], axis=1)


def draw_faces(num_images: int) -> tuple[FaceDescriptions, NDArray[np.int64]]:
    """Return embeddings of people with 2.3 images each, as LFW's have, and the labels."""
    rng = np.random.default_rng(0)
    labels = np.sort(rng.integers(max(2, int(num_images / 2.3)), size=num_images))
    centers = rng.normal(size=(labels.max() + 1, EMBEDDING_SIZE)).astype(np.float32)
    values = centers[labels] + 1.5 * rng.normal(size=(num_images, EMBEDDING_SIZE)).astype(np.float32)
    embeddings = torch.nn.functional.normalize(torch.from_numpy(values), dim=1)
    return FaceDescriptions(embeddings, ()), labels


def same_person(labels: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return whether each unordered pair of images shows one person, in the order of np.triu_indices."""
    return np.concatenate([labels[place + 1 :] == labels[place] for place in range(len(labels))])


def peer(scores: NDArray[np.float32], issame: NDArray[np.bool_]) -> Step | None:
    """Return scikit-learn's curve of the same scores, None with a line where it is not installed."""
    try:
        from sklearn.metrics import roc_curve
    except ImportError:
        print("scikit-learn is not installed: nothing to compare with")
        return None
    return lambda: roc_curve(issame, scores)


def _measure(args: argparse.Namespace) -> Iterator[tuple[Table, Row]]:
    num_resamples = scaled(args.resamples, args.scale, least=10)
    issame, people = draw_pairs(NUM_PAIRS, NUM_PEOPLE)
    accepted = np.random.default_rng(1).random(NUM_PAIRS) < np.where(issame, 0.95, 0.01)
    resampling = Resampling(people, num_resamples)
    bootstrap: dict[str, Step] = {
        "intervals over people at a fixed threshold": lambda: rate_intervals(accepted, issame, resampling)
    }
    for row in _rows(bootstrap, args.repeats, NUM_PAIRS):
        yield TABLE, {**row, "num_resamples": num_resamples}
    faces, labels = draw_faces(scaled(args.images, args.scale, least=40))
    scores, matches = score_all_pairs(faces, None)["adaface"], same_person(labels)
    steps: dict[str, Step] = {
        "cosines of all pairs": lambda: score_all_pairs(faces, None),
        FIGURES: lambda: (auc(scores, matches), tar_at_far(scores, matches, FARS)),
    }
    if (reference := peer(scores, matches)) is not None:
        steps[PEER] = reference
    for row in _rows(steps, args.repeats, len(scores)):
        yield TABLE, row


def _rows(steps: dict[str, Step], repeats: int, num_pairs: int) -> Iterator[Row]:
    costs = compare(steps, repeats)
    reference = statistics.median(costs[PEER].runs) if PEER in costs else None
    for name, cost in costs.items():
        yield {
            "what": name,
            "time_ratio": ratio(cost.seconds, reference) if name in (FIGURES, PEER) else None,
            "seconds": cost.seconds,
            "extra_mib": cost.extra_mib,
            "num_pairs": num_pairs,
            "runs": cost.runs,
        }


BENCHMARK = Benchmark((TABLE,), _measure)
