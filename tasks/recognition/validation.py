"""Scores of benchmark pairs, gathered from batches and ranks and evaluated once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import transforms
from datasets import Benchmark, PairSample
from evaluation import (
    Describe,
    FusionStatistics,
    MatchPairs,
    MethodResult,
    describe_with_flip,
    evaluate_pairs,
    fit_statistics,
    score_pairs,
    usual_folds,
)
from ops import gather_objects

CONDITIONS = ("clean", "occluded")
# Below these a checkpoint is chosen by chance: at 90 % accuracy 300 pairs give 3.4 points either way, as much as an
# epoch late in a training changes, and the pairs of 20 people are little more than 20 answers.
MIN_PAIRS, MIN_PEOPLE = 300, 20
# Published protocols define ten folds; a set with fewer pairs of a kind is cut into as many as it can fill.
NUM_FOLDS = 10


class ScoredBatch(NamedTuple):
    """Scores of one batch of pairs under one condition."""

    condition: str
    benchmark: NDArray[np.int64]
    pair: NDArray[np.int64]
    scores: dict[str, NDArray[np.float32]]


Scores = dict[str, NDArray[np.float32]]  # by matcher, [N] in the benchmark's order
MethodResults = dict[str, MethodResult]  # by method


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

    def add(self, describe: Describe, match_pairs: MatchPairs | None, batch: PairSample, device: torch.device) -> None:
        """Score the pairs of one batch, clean and, where the batch holds a third image, occluded."""
        images = torch.as_tensor(batch.images)
        views = images.shape[1]
        described = describe_with_flip(describe, transforms.to_tensor(images.to(device).flatten(0, 1)))
        first, second, *occluded = (described[slice(view, None, views)] for view in range(views))
        for condition, other in zip(CONDITIONS, [second, *occluded], strict=False):
            scores = {name: _numpy(values) for name, values in score_pairs(first, other, match_pairs).items()}
            self._batches.append(ScoredBatch(condition, _numpy(batch.benchmark), _numpy(batch.index), scores))

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


def evaluate(
    scores: Mapping[str, Mapping[str, Scores]], benchmarks: Sequence[Benchmark], weights: Mapping[str, float]
) -> dict[str, dict[str, MethodResults]]:
    """Return {benchmark: {condition: {method: result}}} for gathered scores."""
    by_name = {benchmark.name: benchmark for benchmark in benchmarks}
    return {
        name: {
            condition: evaluate_pairs(
                by_matcher, by_name[name].issame, used_weights(weights, by_matcher), folds_of(by_name[name])
            )
            for condition, by_matcher in conditions.items()
        }
        for name, conditions in scores.items()
    }


def find_nonfinite(scores: Mapping[str, Mapping[str, Scores]]) -> str | None:
    """Return what to say of the first gathered scores that are not all finite; None if all are."""
    for name, conditions in scores.items():
        for condition, by_matcher in conditions.items():
            for matcher, values in by_matcher.items():
                if bad := int((~np.isfinite(values)).sum()):
                    return f"{bad} of {len(values)} scores of {matcher} on {name}, {condition}, are not finite"
    return None


def pooled_statistics(
    scores: Mapping[str, Mapping[str, Scores]], benchmarks: Sequence[Benchmark], weights: Mapping[str, float]
) -> FusionStatistics | None:
    """Return the fusion statistics of all clean pairs together; None where there is nothing to fuse."""
    clean = [scores[benchmark.name]["clean"] for benchmark in benchmarks]
    if "qaconv" not in clean[0]:
        return None
    pooled = {name: np.concatenate([by_matcher[name] for by_matcher in clean]) for name in clean[0]}
    issame = np.concatenate([benchmark.issame for benchmark in benchmarks])
    source = f"clean pairs of {', '.join(benchmark.name for benchmark in benchmarks)}"
    return fit_statistics(pooled, issame, used_weights(weights, pooled), source)


def metrics(results: Mapping[str, Mapping[str, MethodResults]], stage: str) -> dict[str, float]:
    """Return the accuracies to log, in [0, 1].

    `{stage}_{method}_acc` is the mean over the clean sets; `{stage}_acc` is that of the combined score, or of the
    embedding where there is no matcher. Single sets are `{set}_{condition}_{method}_acc`, with `test_` before in test.
    """
    by_set = {
        (name, condition, method): result.accuracy
        for name, conditions in results.items()
        for condition, methods in conditions.items()
        for method, result in methods.items()
    }
    return _name_metrics(by_set, stage)


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
    logged |= {f"{prefix}{'_'.join(key)}_acc": accuracy for key, accuracy in by_set.items()}
    best = f"{stage}_combined_acc"
    return {f"{stage}_acc": logged.get(best, logged[f"{stage}_adaface_acc"]), **logged}


def used_weights(weights: Mapping[str, float], scores: Mapping[str, Any]) -> dict[str, float]:
    """Return the weights of the matchers that there are scores of."""
    return {name: weights[name] for name in scores}


def folds_of(benchmark: Benchmark) -> NDArray[np.int64] | int:
    """Return the folds of the protocol, else the number of contiguous ones, else stratified ones: `usual_folds`."""
    return usual_folds(benchmark.issame, NUM_FOLDS) if benchmark.folds is None else benchmark.folds


def describe_folds(benchmark: Benchmark) -> str | int:
    """Return what the report says of `folds_of`."""
    if benchmark.folds is not None:
        return "of the protocol"
    folds = folds_of(benchmark)
    if isinstance(folds, int):
        return folds
    return f"{int(folds.max()) + 1}, stratified: contiguous ones would hold one kind of pairs"


class Precision(NamedTuple):
    """How exactly an accuracy can be known: see `precision_of`."""

    text: str
    is_enough: bool


def precision_of(benchmarks: Sequence[Benchmark], monitor: str = "") -> Precision:
    """Return how wide the 95 % interval of the accuracy is that the sets give together, in words.

    The half width is Wilson's for a binomial share at 90 %, of a mean over the sets. Pairs that share people are not
    independent, so it is told twice: as if all pairs were, which is too narrow, and as if every person gave one answer,
    which is about as wide as it can be.

    Args:
        benchmarks: the sets.
        monitor: name of a metric; where it is that of one set, only this one counts.
    """
    chosen = [b for b in benchmarks if monitor.startswith(f"{b.name}_")] or benchmarks
    num_pairs = [len(b) for b in chosen]
    people = [len(np.unique(b.identities)) for b in chosen if b.identities is not None]
    return precision(num_pairs, people if len(people) == len(chosen) else None)


def precision(num_pairs: Sequence[int], people: Sequence[int] | None) -> Precision:
    """Return what `precision_of` says of sets of so many pairs and people each; None: nobody knows of how many."""
    text = f"{sum(num_pairs):,} pairs of {f'{sum(people):,}' if people else 'an unknown number of'} people"
    text += f": 95 % interval of an accuracy of 90 %: {100 * _half_width(num_pairs):.1f} points either way"
    if people:
        text += f" if pairs were independent, {100 * _half_width(people):.1f} if only people are"
    return Precision(text, sum(num_pairs) >= MIN_PAIRS and (not people or sum(people) >= MIN_PEOPLE))


def _half_width(nums: Sequence[int], accuracy: float = 0.9, z: float = 1.96) -> float:
    """Return Wilson's half width for the mean of shares of nums answers each."""
    squares = [(z / (1 + z**2 / num)) ** 2 * (accuracy * (1 - accuracy) / num + z**2 / (4 * num**2)) for num in nums]
    return float(np.sqrt(sum(squares))) / len(nums)


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
