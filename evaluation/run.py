"""The one evaluator: pairs from any source, under any condition, by every method, become one result dictionary.

A source is whatever holds named pairs of images: a benchmark set, a folder of people with all its pairs, a list. What
describes an image, matches two and hides one comes as a callable, so that nothing here knows a network or a file.
Scores may also be gathered elsewhere, over the ranks of a run, say: `evaluate` and `build_results` need no image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from evaluation.protocols.bootstrap import Draws, Resampling, accuracy_measure, average, paired_draws, summarize
from evaluation.protocols.folds import usual_folds
from evaluation.protocols.fusion import FusionStatistics, fit_statistics
from evaluation.protocols.groups import Grouping, figures_by_group
from evaluation.protocols.identification import leave_one_out
from evaluation.protocols.measured import Measured, mean_draws, mean_figures, mean_measured
from evaluation.protocols.protocol import MethodResult, evaluate_pairs
from evaluation.protocols.verification import decide
from evaluation.report.results import SCHEMA, Results
from evaluation.scores.descriptions import FLIP_FUSION
from evaluation.scores.images import Scores

CONDITIONS = ("clean", "occluded")
NUM_RESAMPLES = 400
# Published protocols define ten folds; a set with fewer pairs of a kind is cut into as many as it can fill.
NUM_FOLDS = 10
# Below these a checkpoint is chosen by chance: at 90 % accuracy 300 pairs give 3.4 points either way, as much as an
# epoch late in a training changes, and the pairs of 20 people are little more than 20 answers.
MIN_PAIRS, MIN_PEOPLE = 300, 20
MAX_SHARE = 0.5  # of the genuine pairs that one person may hold without a warning

MethodResults: TypeAlias = Mapping[str, MethodResult]  # by method
SetResults: TypeAlias = Mapping[str, Mapping[str, MethodResults]]  # {source: {condition: {method: result}}}


class OverDraws(NamedTuple):
    """Results of several draws of occluders; those of one further draw are held at a time."""

    first: SetResults
    further: Sequence[Callable[[], SetResults]] = ()  # each gives the results of the occluded pairs, drawn anew


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


def evaluate(
    sources: Sequence[PairSource],
    scores: Mapping[str, Mapping[str, Scores]],
    weights: Mapping[str, float],
    statistics: FusionStatistics | None = None,
) -> dict[str, dict[str, dict[str, MethodResult]]]:
    """Return {source: {condition: {method: result}}}.

    Args:
        sources: the pairs.
        scores: {source: {condition: {matcher: scores}}}; where they hold "combined" ones, nothing is left to fuse.
        weights: of the combined score, by matcher.
        statistics: what the scores are fused with, with its own weights; None: each fold of a source is fused with
            what its other folds tell.
    """
    return {
        source.name: {
            condition: evaluate_pairs(
                by_matcher,
                source.issame,
                None if statistics or "combined" in by_matcher else used_weights(weights, by_matcher),
                folds_of(source),
                None if "combined" in by_matcher else statistics,
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
    if "qaconv" not in clean[0] or "combined" in clean[0]:
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
    results: SetResults | OverDraws,
    protocol: Mapping[str, object],
    synthetic: bool = False,
    missing: Sequence[str] = (),
    seed: int = 0,
    fars: Sequence[float] = (),
) -> Results:
    """Return the result dictionary of `evaluation.report.results`.

    Args:
        sources: the pairs.
        results: of `evaluate`; of several draws of occluders the means are told, see `mean_measured`.
        protocol: facts beside those that are known here; they win where both know.
        synthetic, missing: as in the dictionary.
        seed: of the intervals; each source's place in the list is added.
        fars: FAR limits; none: of each source those that its pairs resolve.
    """
    parts: dict[str, dict[str, dict[str, list[Measured]]]] = {source.name: {} for source in sources}
    for place, source, condition, methods in _drawn(sources, results):
        resampling = _resampling(source, seed + place)
        by_method = parts[source.name].setdefault(condition, {method: [] for method in methods})
        for method, result in methods.items():
            by_method[method].append(result.measure(resampling, fars))
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
        "warnings": warnings_of(sources),
        "benchmarks": {
            source.name: {
                "checksum": source.checksum(),
                "conditions": {
                    condition: {method: mean_measured(drawn, seed).to_dict() for method, drawn in by_method.items()}
                    for condition, by_method in parts[source.name].items()
                },
            }
            for source in sources
        },
    }


def compare(sources: Sequence[PairSource], results: SetResults | OverDraws) -> dict[str, dict[str, float]]:
    """Return the paired difference in accuracy of the combined score and the embedding alone, mean over the sources."""
    drawn: dict[str, dict[int, list[Draws]]] = {}
    for place, source, condition, methods in _drawn(sources, results):
        if "combined" in methods:
            draws = paired_draws(
                methods["combined"].fold_scores,
                methods["adaface"].fold_scores,
                source.issame,
                accuracy_measure(folds_of(source)),
                _resampling(source, place),
            )
            name = f"combined minus embedding, accuracy, {condition}"
            drawn.setdefault(name, {}).setdefault(place, []).append(draws)
    means = {name: average([mean_draws(parts) for parts in found.values()]) for name, found in drawn.items()}
    return {name: dict(summarize(draws)._asdict()) for name, draws in means.items()}


def _drawn(
    sources: Sequence[PairSource], results: SetResults | OverDraws
) -> Iterator[tuple[int, PairSource, str, MethodResults]]:
    """Yield (place of the source, source, condition, results by method), draw by draw."""
    draws = results if isinstance(results, OverDraws) else OverDraws(results)
    for again in (lambda: draws.first, *draws.further):
        found = again()
        for place, source in enumerate(sources):
            for condition, methods in found[source.name].items():
                yield place, source, condition, methods


class Search(NamedTuple):
    """What a search needs of a draw of occluders: results by method of the pairs, and with the roles exchanged."""

    results: MethodResults
    exchanged: MethodResults | None = None


def identify(
    report: Results,
    name: str,
    results: Mapping[str, MethodResults],
    labels: NDArray[np.int64],
    exchanged: MethodResults | None = None,
    further: Iterable[Search] = (),
) -> None:
    """Add to the entries of a source how searching each image [M] among all others goes, from scores of all pairs.

    Args:
        report: of `build_results`.
        name, results: of the source.
        labels: people, by image.
        exchanged: results of the occluded pairs where the first image is occluded, not the second. Then each probe is
            occluded and every image of the gallery clean: a probe's scores with earlier images are those of results,
            with later ones these. None: both images of an occluded pair are occluded.
        further: occluded pairs of further draws, whose mean is told.
    """
    searches = {condition: [Search(methods)] for condition, methods in results.items()}
    if "occluded" in results:
        searches["occluded"] = [Search(results["occluded"], exchanged)]
    found: dict[tuple[str, str], list[dict[str, object]]] = {}
    for condition, draws in searches.items():
        for search in draws if condition == "clean" else (*draws, *further):
            for method, result in search.results.items():
                later = None if search.exchanged is None else search.exchanged[method].scores
                one = leave_one_out(result.scores, labels, with_later=later).to_dict()
                gallery = condition if later is None else "clean"
                found.setdefault((condition, method), []).append(one | {"probes": condition, "gallery": gallery})
    for (condition, method), drawn in found.items():
        entry: Any = report["benchmarks"][name]["conditions"][condition][method]
        entry["identification"] = mean_figures(drawn)


def warnings_of(sources: Sequence[PairSource]) -> list[str]:
    """Return what to say of the sets whose genuine pairs are mostly one person's."""
    found = []
    for source in sources:
        if source.identities is None:
            continue
        _, counts = np.unique(source.identities.reshape(-1, 2)[source.issame, 0], return_counts=True)
        share = counts.max(initial=0) / max(1, counts.sum())
        if share > MAX_SHARE:
            found.append(
                f"{source.name}: one person holds {100 * share:.0f} % of the {counts.sum():,} genuine pairs, "
                f"{len(counts)} have any; the figures are mostly about that person"
            )
    return found


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
