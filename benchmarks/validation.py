"""Validation on the CPU: what it takes beyond the backbone.

Run as `python -m benchmarks validation`. Pairs of synthetic faces, clean and occluded, are read, described with their
mirror images, matched and evaluated as after each epoch of a training run, in this process, so that all of the time is
seen. Shares are of the backbone's time. What follows the last batch (gathering, folds, fusion) is measured on a set of
6,000 pairs, the size of LFW, and charged for as many pairs as were matched.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import cv2
import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader

from benchmarks.harness.measure import ratio
from benchmarks.harness.program import Benchmark, scaled
from benchmarks.harness.tables import Column, Row, Table
from config import OCCLUDERS, Config
from datasets import Benchmark as PairSet
from datasets import PairDataset, shard_pairs
from datasets.synthetic.prepare import render_identities
from evaluation import run
from options.names import ONLY_DATASET
from tasks import validation
from train_val import Recognizer

EVALUATED_PAIRS = 6_000
BATCH_SIZE = 42  # as a training batch of 256 has it
BACKBONE = "backbone"
WEIGHTS = {"adaface": 0.5, "qaconv": 0.5}

VALIDATION = Table(
    "validation",
    (
        Column("part", "part", width=28),
        Column("of the backbone", "share", "{:.1%}"),
        Column("goal", "goal", "<= {:.0%}"),
        Column("ms a pair", "milliseconds", "{:.2f}"),
        Column("arch", "arch", width=8),
    ),
)


def make_pairs(num_pairs: int) -> PairSet:
    """Return as many genuine as impostor pairs of synthetic faces."""
    images, _ = render_identities("benchmark", num_pairs, per_identity=2)
    issame = np.arange(num_pairs) % 2 == 0
    images[1::2][~issame] = np.roll(images[1::2][~issame], 1, axis=0)
    return PairSet(images, issame, "lfw")


class PartClock:
    """Adds up the seconds spent inside functions, without those that it also follows inside them."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._inner = 0.0

    def follow(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function, timed."""

        def timed(*args: Any, **kwargs: Any) -> Any:
            outer, self._inner, start = self._inner, 0.0, time.perf_counter()
            result = function(*args, **kwargs)
            elapsed = time.perf_counter() - start
            self.seconds[part] += elapsed - self._inner
            self._inner = outer + elapsed
            return result

        return timed


def follow_module(clock: PartClock, part: str, module: nn.Module) -> None:
    """Time the forward passes of a module."""
    module.forward = clock.follow(part, module.forward)


def validate(model: Recognizer, pairs: PairSet, batch_size: int) -> dict[str, float]:
    """Return the seconds of each part of one pass over the pairs, evaluation not included."""
    clock = PartClock()
    assert model.matcher is not None and model.occlusion_head is not None
    follow_module(clock, BACKBONE, model.model)
    follow_module(clock, "occlusion head", model.occlusion_head)
    matcher: Any = model.matcher
    matcher.match_pairs = clock.follow("QAConv, pairs in batches", matcher.match_pairs)
    batches = shard_pairs(len(pairs), batch_size, rank=0, world_size=1)
    loader = iter(DataLoader(PairDataset([pairs], OCCLUDERS), batch_sampler=batches))
    scores = validation.PairScores()
    read = clock.follow("images and occluders", lambda: next(loader))
    add = clock.follow("the rest of a batch", scores.add)
    for _ in batches:
        add(model.describe, matcher, read(), torch.device("cpu"))
    return clock.seconds


def evaluation_seconds() -> float:
    """Return the seconds that folds and fusion take for EVALUATED_PAIRS pairs, clean and occluded."""
    rng = np.random.default_rng(0)
    issame = np.arange(EVALUATED_PAIRS) % 2 == 0
    pairs = PairSet(np.zeros((2 * EVALUATED_PAIRS, 112, 112, 3), np.uint8), issame, "lfw")
    scores = {
        condition: {matcher: (rng.normal(size=len(issame)) + 2 * issame).astype(np.float32) for matcher in WEIGHTS}
        for condition in run.CONDITIONS
    }
    start = time.perf_counter()
    run.evaluate([pairs], {"lfw": scores}, WEIGHTS)
    run.pooled_statistics([pairs], {"lfw": scores}, WEIGHTS)
    return time.perf_counter() - start


def measure_shares(arch: str, num_pairs: int, repeats: int) -> Iterator[Row]:
    """Yield the time of each part over that of the backbone, and of all parts but the backbone together."""
    config = Config(arch=arch, gpus=0)
    torch.manual_seed(0)
    model = Recognizer(config.to_dict(), {ONLY_DATASET: 2}).eval()
    pairs = make_pairs(num_pairs)
    with torch.inference_mode():
        validate(model, pairs, BATCH_SIZE)  # the first pass loads templates and allocates
        runs = [validate(model, pairs, BATCH_SIZE) for _ in range(repeats)]
    evaluation = statistics.median(evaluation_seconds() for _ in range(repeats)) * num_pairs / EVALUATED_PAIRS
    medians = {part: statistics.median(run[part] for run in runs) for part in runs[0]} | {
        "folds and fusion": evaluation
    }
    backbone = medians.pop(BACKBONE)
    rows = {BACKBONE: backbone, **medians, "all but the backbone": sum(medians.values())}
    for part, seconds in rows.items():
        yield {
            "part": part,
            "share": ratio(seconds, backbone),
            "goal": 0.10 if part == "all but the backbone" else None,
            "milliseconds": 1000 * seconds / num_pairs,
            "arch": arch,
        }


def _measure(args: argparse.Namespace) -> Iterator[tuple[Table, Row]]:
    cv2.setNumThreads(0)
    for arch in args.archs:
        for row in measure_shares(arch, scaled(args.num_pairs, args.scale, least=4), args.repeats):
            yield VALIDATION, row


BENCHMARK = Benchmark((VALIDATION,), _measure)
