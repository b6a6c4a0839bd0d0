"""The one evaluator: pairs from any source, under any condition, by every method, become one result dictionary.

A source is whatever holds named pairs of images: a benchmark set, a folder of people with all its pairs, a list. What
describes an image, matches two and hides one comes as a callable, so that nothing here knows a network or a file.
Scores may also be gathered elsewhere, over the ranks of a run, say: `evaluate` and `build_results` need no image.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evaluation.protocols.bootstrap import Draws, Resampling, accuracy_measure, average, paired_draws, summarize
from evaluation.protocols.folds import usual_folds
from evaluation.protocols.fusion import FusionStatistics, fit_statistics
from evaluation.protocols.groups import Grouping, figures_by_group
from evaluation.protocols.identification import leave_one_out
from evaluation.protocols.protocol import MethodResult, evaluate_pairs
from evaluation.protocols.verification import decide
from evaluation.report.results import SCHEMA, Results
from evaluation.scores.descriptions import FLIP_FUSION, FaceDescriptions
from evaluation.scores.scoring import score_all_pairs, score_pair_list
from evaluation.scores.search import score_shortlisted_pairs

CONDITIONS = ("clean", "occluded")
NUM_RESAMPLES = 400
# Published protocols define ten folds; a set with fewer pairs of a kind is cut into as many as it can fill.
NUM_FOLDS = 10
# Below these a checkpoint is chosen by chance: at 90 % accuracy 300 pairs give 3.4 points either way, as much as an
# epoch late in a training changes, and the pairs of 20 people are little more than 20 answers.
MIN_PAIRS, MIN_PEOPLE = 300, 20

Scores: TypeAlias = Mapping[str, NDArray[np.float32]]  # by matcher, [N] in the order of the source's pairs
MethodResults: TypeAlias = Mapping[str, MethodResult]  # by method
SetResults: TypeAlias = Mapping[str, Mapping[str, MethodResults]]  # {source: {condition: {method: result}}}


class PairSource(Protocol):
    """N named pairs of images, known without a look at their pixels."""

    @property
    def name(self) -> str:
        """Name, under which results are told; two sources of an evaluation have two names."""

    @property
    def issame(self) -> NDArray[np.bool_]:
        """Bool [N], True where both images show one person."""

    @property
    def folds(self) -> NDArray[np.int64] | None:
        """int64 [N] where the protocol defines them."""

    @property
    def identities(self) -> NDArray[np.int64] | None:
        """int64 [2N], the first and the second image's of each pair in turn, where they are known and agree."""

    def checksum(self) -> str:
        """Return what tells exactly which pairs these are."""


class ImagePairs(PairSource, Protocol):
    """A source whose images can be looked at."""

    @property
    def images(self) -> NDArray[np.uint8]:
        """uint8 [M, H, W, 3] RGB."""

    @property
    def places(self) -> NDArray[np.int64] | None:
        """int64 [N, 2], places of each pair in images; None: all unordered pairs, as np.triu_indices has them."""


class Matcher(Protocol):
    """A local matcher of maps and visibilities, as `evaluation.scores` wants it."""

    def __call__(self, a: Tensor, b: Tensor, c: Tensor | None, d: Tensor | None, /) -> Tensor:
        """Return scores [P, G]."""

    def match_pairs(self, a: Tensor, b: Tensor, c: Tensor | None, d: Tensor | None, /) -> Tensor:
        """Return scores [N]."""


class ImageScores(NamedTuple):
    """Scores of all pairs of a source, which of them the matcher saw, and how much of each face is to be seen."""

    scores: dict[str, Scores]  # by condition
    matched: dict[str, NDArray[np.bool_]]  # by condition, [N]; empty: it saw all pairs
    # By condition, [2, M]: of each image as the first and as the second of a pair, the visible share that the occlusion
    # head predicts; empty: there is none.
    visible: Mapping[str, NDArray[np.float32]] = MappingProxyType({})


def score_images(
    source: ImagePairs,
    describe: Callable[[NDArray[np.uint8]], FaceDescriptions],
    matcher: Matcher | None = None,
    hide: Callable[[NDArray[np.uint8]], NDArray[np.uint8]] | None = None,
    hide_both: bool = False,
    shortlist: int = 0,
    progress: Callable[..., Any] = lambda steps, description: steps,
) -> ImageScores:
    """Describe the images of a source and score its pairs, clean and, where something hides faces, occluded.

    Args:
        source: the images and pairs.
        describe: images uint8 [M, H, W, 3] -> their descriptions.
        matcher: None: the embeddings alone are compared.
        hide: images -> the same, occluded; None: clean pairs only.
        hide_both: whether both images of a pair are occluded, not the second one alone.
        shortlist: of all pairs match those alone whose images are among this many nearest by embedding; 0: all.
        progress: (steps, description=...) -> the steps, watched.
    """
    clean = describe(source.images)
    sides = {"clean": (clean, clean)}
    if hide is not None:
        hidden = describe(hide(source.images))
        sides["occluded"] = (hidden if hide_both else clean, hidden)
    visible = {condition: visible_shares(*both) for condition, both in sides.items()}
    scored = ImageScores({}, {}, {condition: shares for condition, shares in visible.items() if shares is not None})
    with torch.inference_mode():
        for condition, (first, second) in sides.items():
            watch = partial(progress, description=f"scoring {condition} pairs")
            if source.places is not None:
                match_pairs = None if matcher is None else matcher.match_pairs
                found = score_pair_list(first, source.places, match_pairs, others=second, progress=watch)
            elif shortlist and matcher is not None:
                found, scored.matched[condition] = score_shortlisted_pairs(
                    first, matcher, shortlist, others=second, progress=watch
                )
            else:
                found = score_all_pairs(first, matcher, others=second, progress=watch)
            scored.scores[condition] = found
    return scored


def visible_shares(*sides: FaceDescriptions) -> NDArray[np.float32] | None:
    """Return the mean predicted visibility of each image on each side, [S, M], over its views; None without any."""
    maps = [[view.visibility for view in side.views if view.visibility is not None] for side in sides]
    if not all(maps):
        return None
    shares = [torch.stack([m.float().mean((1, 2, 3)).cpu() for m in views]).mean(0) for views in maps]
    return torch.stack(shares).numpy()


def evaluate(
    sources: Sequence[PairSource],
    scores: Mapping[str, Mapping[str, Scores]],
    weights: Mapping[str, float],
    statistics: FusionStatistics | None = None,
) -> dict[str, dict[str, dict[str, MethodResult]]]:
    """Return {source: {condition: {method: result}}}.

    Args:
        sources: the pairs.
        scores: {source: {condition: {matcher: scores}}}.
        weights: of the combined score, by matcher.
        statistics: what the scores are fused with, with its own weights; None: each fold of a source is fused with
            what its other folds tell.
    """
    return {
        source.name: {
            condition: evaluate_pairs(
                by_matcher,
                source.issame,
                used_weights(weights, by_matcher) if statistics is None else None,
                folds_of(source),
                statistics,
            )
            for condition, by_matcher in scores[source.name].items()
        }
        for source in sources
    }


def pooled_statistics(
    sources: Sequence[PairSource], scores: Mapping[str, Mapping[str, Scores]], weights: Mapping[str, float]
) -> FusionStatistics | None:
    """Return the fusion statistics of all clean pairs together; None where there is nothing to fuse."""
    clean = [scores[source.name]["clean"] for source in sources]
    if "qaconv" not in clean[0]:
        return None
    pooled = {name: np.concatenate([by_matcher[name] for by_matcher in clean]) for name in clean[0]}
    issame = np.concatenate([source.issame for source in sources])
    text = f"clean pairs of {', '.join(source.name for source in sources)}"
    return fit_statistics(pooled, issame, used_weights(weights, pooled), text)


def used_weights(weights: Mapping[str, float], scores: Mapping[str, Any]) -> dict[str, float]:
    """Return the weights of the matchers that there are scores of."""
    return {name: weights[name] for name in scores}


def build_results(
    sources: Sequence[PairSource],
    results: SetResults,
    protocol: Mapping[str, object],
    synthetic: bool = False,
    missing: Sequence[str] = (),
    seed: int = 0,
    fars: Sequence[float] = (),
) -> Results:
    """Return the result dictionary of `evaluation.report.results`.

    Args:
        sources: the pairs.
        results: of `evaluate`.
        protocol: facts beside those that are known here; they win where both know.
        synthetic, missing: as in the dictionary.
        seed: of the intervals; each source's place in the list is added.
        fars: FAR limits; none: of each source those that its pairs resolve.
    """
    resampling = {source.name: _resampling(source, seed + place) for place, source in enumerate(sources)}
    ways = sorted({_resampling(source, seed).describe() for source in sources})
    return {
        "schema": SCHEMA,
        "synthetic": synthetic,
        "missing": list(missing),
        "protocol": {
            "flip_fusion": FLIP_FUSION,
            "color_space": "rgb",
            "folds": {source.name: describe_folds(source) for source in sources},
            "precision": precision_of(sources).text,
            "interval_method": "; ".join(ways) + " plus the set's place in the list",
            **protocol,
        },
        "benchmarks": {
            source.name: {
                "checksum": source.checksum(),
                "conditions": {
                    condition: {
                        method: result.to_dict(resampling[source.name], fars) for method, result in methods.items()
                    }
                    for condition, methods in results[source.name].items()
                },
            }
            for source in sources
        },
    }


def compare(sources: Sequence[PairSource], results: SetResults) -> dict[str, dict[str, float]]:
    """Return the paired difference in accuracy of the combined score and the embedding alone, mean over the sources."""
    found: dict[str, list[Draws]] = {}
    for seed, source in enumerate(sources):
        for condition, methods in results[source.name].items():
            if "combined" in methods:
                draws = paired_draws(
                    methods["combined"].fold_scores,
                    methods["adaface"].fold_scores,
                    source.issame,
                    accuracy_measure(folds_of(source)),
                    _resampling(source, seed),
                )
                found.setdefault(f"combined minus embedding, accuracy, {condition}", []).append(draws)
    return {name: dict(summarize(average(draws))._asdict()) for name, draws in found.items()}


def identify(report: Results, name: str, results: Mapping[str, MethodResults], labels: NDArray[np.int64]) -> None:
    """Add to the entries of a source how searching each image [M] among all others goes, from scores of all pairs."""
    for condition, methods in results.items():
        for method, result in methods.items():
            entry: Any = report["benchmarks"][name]["conditions"][condition][method]
            entry["identification"] = leave_one_out(result.scores, labels).to_dict()


def group(
    report: Results,
    source: PairSource,
    results: Mapping[str, MethodResults],
    groups: Mapping[str, Mapping[str, Grouping]],
    seed: int = 0,
) -> None:
    """Add to the entries of a source the figures of groups of its pairs, decided at the thresholds of all its pairs.

    Args:
        groups: {condition: {what the groups are by: the groups of its pairs}}.
        seed: of the intervals.
    """
    resampling = _resampling(source, seed)
    for condition, by in ((name, found) for name, found in groups.items() if found):
        for method, result in results[condition].items():
            accepted = decide(result.fold_scores, result.verification.fold_threshold, result.folds)
            entry: Any = report["benchmarks"][source.name]["conditions"][condition][method]
            entry["groups"] = {
                title: {
                    name: figures.to_dict()
                    for name, figures in figures_by_group(result.issame, grouping, accepted, resampling).items()
                }
                for title, grouping in by.items()
            }


def folds_of(source: PairSource) -> NDArray[np.int64] | int:
    """Return the folds of the protocol, else the number of contiguous ones, else stratified ones: `usual_folds`."""
    return usual_folds(source.issame, NUM_FOLDS) if source.folds is None else source.folds


def describe_folds(source: PairSource) -> str | int:
    """Return what the report says of `folds_of`."""
    if source.folds is not None:
        return "of the protocol"
    folds = folds_of(source)
    if isinstance(folds, int):
        return folds
    return f"{int(folds.max()) + 1}, stratified: contiguous ones would hold one kind of pairs"


def _resampling(source: PairSource, seed: int) -> Resampling:
    """Return how intervals are found: over people where they are known, else over pairs."""
    identities = None if source.identities is None else source.identities.reshape(-1, 2)
    return Resampling(identities, NUM_RESAMPLES, seed)


class Precision(NamedTuple):
    """How exactly an accuracy can be known: see `precision_of`."""

    text: str
    is_enough: bool


def precision_of(sources: Sequence[PairSource], monitor: str = "") -> Precision:
    """Return how wide the 95 % interval of the accuracy is that the sets give together, in words.

    The half width is Wilson's for a binomial share at 90 %, of a mean over the sets. Pairs that share people are not
    independent, so it is told twice: as if all pairs were, which is too narrow, and as if every person gave one answer,
    which is about as wide as it can be.

    Args:
        sources: the sets.
        monitor: name of a metric; where it is that of one set, only this one counts.
    """
    monitored = [source for source in sources if monitor.startswith(f"{source.name}_")]
    chosen = [max(monitored, key=lambda source: len(source.name))] if monitored else sources
    num_pairs = [source.issame.size for source in chosen]
    known = [len(np.unique(source.identities)) for source in chosen if source.identities is not None]
    people = known if len(known) == len(chosen) else []
    text = f"{sum(num_pairs):,} pairs of {f'{sum(people):,}' if people else 'an unknown number of'} people"
    text += f": 95 % interval of an accuracy of 90 %: {100 * _half_width(num_pairs):.1f} points either way"
    if people:
        text += f" if pairs were independent, {100 * _half_width(people):.1f} if only people are"
    return Precision(text, sum(num_pairs) >= MIN_PAIRS and (not people or sum(people) >= MIN_PEOPLE))


def _half_width(nums: Sequence[int], accuracy: float = 0.9, z: float = 1.96) -> float:
    """Return Wilson's half width for the mean of shares of nums answers each."""
    squares = [(z / (1 + z**2 / num)) ** 2 * (accuracy * (1 - accuracy) / num + z**2 / (4 * num**2)) for num in nums]
    return float(np.sqrt(sum(squares))) / len(nums)
