"""Neighbours for clustering: processor time and edge recall of our lists against faiss's inverted file.

Run as `python -m benchmarks clustering`. Embeddings are drawn: people of log-normal sizes, images around them at a
cosine of about 0.61, with variations that all people share. Processor seconds of all threads count, so that other work
on the machine matters little. Our search plans its visits, at its own expense; faiss gets the fewest of PROBES that
reach an edge recall of 0.99, or the last of them, and is left out where it is not installed. From half a million images
on there is one search, with the settings of a refresh and no peer: it has a goal in minutes of both cores.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.harness.measure import MIB, measure_extra_mib, ratio
from benchmarks.harness.program import Benchmark, scaled
from benchmarks.harness.tables import Column, Row, Table
from datasets.clustering import Neighbours, SearchSettings, edge_recall, neighbours, pseudo_identities
from datasets.clustering.identities import JoiningRules

DIM = 512
K, THRESHOLD, RECALL = 20, 0.6, 0.99
PROBES = (1, 2, 4, 8, 16, 32)
GENUINE = 0.61  # cosine of two images of a person
NUM_SHARED = 32  # directions in which images of all people vary, as by pose and light
GOAL = 0.5
LARGE = 500_000  # images
GOAL_MINUTES = 10
_BLOCK = 2**14

TABLE = Table(
    "pretraining_clustering",
    (
        Column("neighbours", "what", width=26),
        Column("core time", "time_ratio", "{:.2f}x"),
        Column("goal", "goal", "<= {:.1f}x"),
        Column("core s", "core_seconds", "{:.1f}"),
        Column("minutes", "minutes", "{:.1f}"),
        Column("goal", "goal_minutes", "<= {:.0f}"),
        Column("edge recall", "recall", "{:.4f}"),
        Column("extra MiB", "extra_mib", "{:,.0f}"),
    ),
)


class Timed(NamedTuple):
    """A search."""

    what: str
    core_seconds: float
    recall: float
    found: Neighbours
    method: str
    settings: SearchSettings


def draw_embeddings(num_images: int, seed: int = 0) -> NDArray[np.float16]:
    """Return float16 [N, 512] of unit length: people of log-normal sizes, 1 to 400, in mixed order."""
    rng = np.random.default_rng(seed)
    sizes = np.clip(rng.lognormal(2.2, 1.0, num_images), 1, 400).astype(np.int64)
    labels = np.repeat(np.arange(num_images), sizes)[:num_images]
    rng.shuffle(labels)
    people = rng.standard_normal((int(labels.max()) + 1, DIM), np.float32)
    people /= np.linalg.norm(people, axis=1, keepdims=True)
    shared = rng.standard_normal((NUM_SHARED, DIM), np.float32) / np.float32(DIM**0.5)
    spread = np.float32((1 / GENUINE - 1) ** 0.5) * np.exp(rng.normal(0, 0.3, (num_images, 1))).astype(np.float32)
    embeddings = np.empty((num_images, DIM), np.float16)
    for start in range(0, num_images, _BLOCK):
        part = slice(start, start + _BLOCK)
        count = len(spread[part])
        own = rng.standard_normal((count, DIM), np.float32) / np.float32(DIM**0.5)
        common = rng.standard_normal((count, NUM_SHARED), np.float32) @ shared / np.float32(NUM_SHARED**0.5)
        vectors = people[labels[part]] + spread[part] * (np.float32(0.9) * own + np.float32(0.44) * common)
        embeddings[part] = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return embeddings


def search(embeddings: NDArray[np.float16], method: str) -> Timed:
    """Return the search as planned, of faiss that with the fewest visits that reaches the recall, or the last."""
    for probe in PROBES if method == "faiss" else (None,):
        settings = SearchSettings(probe=probe)
        start = time.process_time()
        found = neighbours(embeddings, K, THRESHOLD, method, settings)
        seconds = time.process_time() - start
        recall = edge_recall(embeddings, found, THRESHOLD)
        if recall >= RECALL:
            break
    return Timed(f"{method}, {_visits(found)}", seconds, recall, found, method, settings)


def _visits(found: Neighbours) -> str:
    return "all pairs" if found.visits is None else f"{found.visits.probe} of {found.visits.num_lists} lists"


def _measure(args: argparse.Namespace) -> Iterator[tuple[Table, Row]]:
    embeddings = draw_embeddings(scaled(args.images, args.scale, least=200))
    yield from _one_search(embeddings) if len(embeddings) >= LARGE else _compare(embeddings)


def _one_search(embeddings: NDArray[np.float16]) -> Iterator[tuple[Table, Row]]:
    """Yield what the neighbours of many images cost, and what becomes of them."""
    found: list[Neighbours] = []
    core, wall = time.process_time(), time.perf_counter()
    extra = measure_extra_mib(lambda: found.append(neighbours(embeddings, K, THRESHOLD, "lists", SearchSettings())))
    row = {"minutes": (time.perf_counter() - wall) / 60, "core_seconds": time.process_time() - core}
    recall = edge_recall(embeddings, found[0], THRESHOLD)
    yield (
        TABLE,
        {
            "what": f"lists, {_visits(found[0])}",
            **row,
            "goal_minutes": GOAL_MINUTES,
            "recall": recall,
            "extra_mib": extra,
        },
    )
    yield _joined(found[0])


def _compare(embeddings: NDArray[np.float16]) -> Iterator[tuple[Table, Row]]:
    timed = [search(embeddings, "lists")]
    try:
        timed.append(search(embeddings, "faiss"))
    except ValueError as error:
        print(error)
    peer = timed[-1].core_seconds if len(timed) > 1 else None
    for done in timed:
        extra = measure_extra_mib(lambda d=done: neighbours(embeddings, K, THRESHOLD, d.method, d.settings))  # type: ignore[misc]
        yield (
            TABLE,
            {
                "what": done.what,
                "time_ratio": ratio(done.core_seconds, peer),
                "goal": GOAL if done.method == "lists" else None,
                "core_seconds": done.core_seconds,
                "recall": done.recall,
                "extra_mib": extra,
                "embeddings_mib": embeddings.nbytes / MIB,
            },
        )
    yield _joined(timed[0].found)


def _joined(found: Neighbours) -> tuple[Table, Row]:
    start = time.process_time()
    identities = pseudo_identities(found, JoiningRules())
    seconds = time.process_time() - start
    return TABLE, {"what": f"edges and {len(identities.sizes)} clusters", "core_seconds": seconds}


BENCHMARK = Benchmark((TABLE,), _measure)
