"""Scores of benchmark pairs, gathered from batches and ranks for the evaluator, and its accuracies as metrics."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import transforms
from datasets import Benchmark, PairSample
from datasets.cohort import Cohort
from engine.guard import NonFiniteError
from evaluation import (
    Describe,
    FaceDescriptions,
    ScoreNormalization,
    Shares,
    describe_batches,
    describe_with_flip,
    fit_normalization,
    score_all_pairs,
    score_pairs,
    shares_of,
    unordered_pairs,
)
from evaluation.run import CONDITIONS, SetResults
from evaluation.scores.comparable import Sides, comparable_scores
from evaluation.scores.images import Matcher, Scores
from ops import gather_objects

COHORT_BATCH = 64  # images of a cohort at a time


class ScoredBatch(NamedTuple):
    """Scores of one batch of pairs under one condition."""

    condition: str
    benchmark: NDArray[np.int64]
    pair: NDArray[np.int64]
    scores: dict[str, NDArray[np.float32]]


class PairScores:
    """Collect the scores of one pass over all benchmark pairs.

    A batch holds both images of its pairs, so nothing but scores leaves the device, and ranks exchange scores,
    never maps.
    """

    def __init__(self) -> None:
        self._batches: list[ScoredBatch] = []

    def clear(self) -> None:
        """Forget the scores collected so far."""
        self._batches = []

    def add(
        self,
        describe: Describe,
        matcher: Matcher | None,
        batch: PairSample,
        device: torch.device,
        normalization: ScoreNormalization | None = None,
    ) -> FaceDescriptions:
        """Score the pairs of one batch, clean and, where the batch holds a third image, occluded.

        Returns:
            What was compared: B x views images, the views of a pair after each other.
        """
        images = torch.as_tensor(batch.images)
        views = images.shape[1]
        described = describe_with_flip(describe, transforms.to_tensor(images.to(device).flatten(0, 1)))
        first, second, *occluded = (described[slice(view, None, views)] for view in range(views))
        for condition, other in zip(CONDITIONS, [second, *occluded], strict=False):
            found = score_pairs(first, other, None if matcher is None else matcher.match_pairs)
            scores = {name: _numpy(values) for name, values in found.items()}
            if normalization is not None:
                places = np.arange(len(batch.index))[:, None].repeat(2, axis=1)
                if all(np.isfinite(values).all() for values in scores.values()):
                    scores = comparable_scores(scores, Sides(first, other, places), normalization)
                else:  # `check_finite` says it, when all are gathered
                    scores["combined"] = np.full(len(places), np.nan, np.float32)
            self._batches.append(ScoredBatch(condition, _numpy(batch.benchmark), _numpy(batch.index), scores))
        return described

    def gather(self, benchmarks: Sequence[Benchmark]) -> dict[str, dict[str, Scores]]:
        """Return {benchmark: {condition: {matcher: scores [N]}}} of all ranks, pairs in the benchmark's order.

        Raises:
            RuntimeError: if a pair was scored by no rank or more than once.
        """
        batches = [batch for rank in gather_objects(self._batches) for batch in rank]
        conditions = [name for name in CONDITIONS if any(batch.condition == name for batch in batches)]
        return {
            benchmark.name: {
                condition: _assemble([b for b in batches if b.condition == condition], number, len(benchmark))
                for condition in conditions
            }
            for number, benchmark in enumerate(benchmarks)
        }


def learn_normalization(
    describe: Describe,
    matcher: Matcher | None,
    cohort: Cohort | None,
    weights: Mapping[str, float],
    device: torch.device,
) -> ScoreNormalization | None:
    """Return what the pairs of a cohort say of scores: clean ones, with one and with both faces occluded.

    None without a matcher or a cohort, where visibility is not predicted, people are too few, or a score is not finite,
    which the validation will say.
    """
    if matcher is None or cohort is None:
        return None
    clean, hidden = (
        describe_batches(describe, _batches(images, device), len(images)) for images in (cohort.clean, cohort.occluded)
    )
    first, second = unordered_pairs(len(cohort.labels)).T
    scores: list[Scores] = []
    shares: list[Shares] = []
    for a, b in ((clean, clean), (clean, hidden), (hidden, hidden)):
        chunks = shares_of(a, b)
        if chunks is None:
            return None
        shares += [part for _, part in chunks]
        scores.append(score_all_pairs(a, matcher, others=b))
    pooled = {name: np.concatenate([by[name] for by in scores]) for name in scores[0]}
    if not all(np.isfinite(values).all() for values in pooled.values()):
        return None
    issame = np.tile(cohort.labels[first] == cohort.labels[second], len(scores))
    source = f"{len(cohort.labels)} images of {len(np.unique(cohort.labels))} training people, clean and occluded"
    seen = Shares(*(np.concatenate(columns) for columns in zip(*shares, strict=True)))
    return fit_normalization(pooled, seen, issame, weights, source)


def _batches(images: NDArray[np.uint8], device: torch.device) -> Iterator[Tensor]:
    for start in range(0, len(images), COHORT_BATCH):
        yield transforms.to_tensor(torch.from_numpy(images[start : start + COHORT_BATCH]).to(device))


def check_finite(scores: Mapping[str, Mapping[str, Scores]], place: str) -> None:
    """Refuse gathered scores of which some are not finite.

    Raises:
        NonFiniteError: of the first of them, with the place in the training.
    """
    for name, conditions in scores.items():
        for condition, by_matcher in conditions.items():
            for matcher, values in by_matcher.items():
                if bad := int((~np.isfinite(values)).sum()):
                    raise NonFiniteError(
                        f"{place}: {bad} of {len(values)} scores of {matcher} on {name}, {condition}, are not finite;"
                        " lower --lr or warm up"
                    )


def metrics(results: SetResults, stage: str) -> dict[str, float]:
    """Return the accuracies to log, in [0, 1], and what the scores of each set are worth as evidence, in bits.

    `{stage}_{method}_acc` is the mean over the clean sets; `{stage}_acc` is that of the combined score, or of the
    embedding where there is no matcher. Single sets are `{set}_{condition}_{method}_acc`, with `test_` before in test;
    of a set whose name makes that one of the means only these are logged. `{stage}_{set}_cllr` is the Cllr of a clean
    set's combined score, or embedding, where the scores can be calibrated.
    """
    by_set = {
        (name, condition, method): result.accuracy
        for name, conditions in results.items()
        for condition, methods in conditions.items()
        for method, result in methods.items()
    }
    clean = {name: conditions["clean"] for name, conditions in results.items()}
    costs = {name: methods.get("combined", methods["adaface"]).cllr for name, methods in clean.items()}
    return {f"{stage}_{name}_cllr": cost for name, cost in costs.items() if cost is not None} | _name_metrics(
        by_set, stage
    )


def metric_names(benchmarks: Sequence[Benchmark], conditions: Sequence[str], methods: Sequence[str]) -> list[str]:
    """Return the names under which a validation of these will log."""
    return list(_name_metrics({key: 0.0 for key in product((b.name for b in benchmarks), conditions, methods)}, "val"))


def _name_metrics(by_set: Mapping[tuple[str, str, str], float], stage: str) -> dict[str, float]:
    """Return the accuracies of (set, condition, method), and their means over sets, under the names of `metrics`."""
    prefix = "test_" if stage == "test" else ""
    means: dict[str, list[float]] = {}
    for (_, condition, method), accuracy in by_set.items():
        key = f"{stage}_{method}_acc" if condition == "clean" else f"{stage}_{condition}_{method}_acc"
        means.setdefault(key, []).append(accuracy)
    logged = {key: float(np.mean(values)) for key, values in means.items()}
    of_sets = {f"{prefix}{'_'.join(key)}_acc": accuracy for key, accuracy in by_set.items()}
    logged |= {name: accuracy for name, accuracy in of_sets.items() if name not in logged}
    best = f"{stage}_combined_acc"
    return {f"{stage}_acc": logged.get(best, logged[f"{stage}_adaface_acc"]), **logged}


def _assemble(batches: Sequence[ScoredBatch], benchmark: int, num_pairs: int) -> Scores:
    """Return the scores of one benchmark in its own order; every pair must have been scored exactly once."""
    chosen = [(batch, batch.benchmark == benchmark) for batch in batches]
    index = np.concatenate([batch.pair[mask] for batch, mask in chosen])
    if not np.array_equal(np.sort(index), np.arange(num_pairs)):
        raise RuntimeError(f"validation: {len(index)} scores for {num_pairs} pairs; each pair must be scored once")
    order = np.argsort(index)
    return {
        name: np.concatenate([batch.scores[name][mask] for batch, mask in chosen])[order] for name in batches[0].scores
    }


def _numpy(values: Any) -> NDArray[Any]:
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
