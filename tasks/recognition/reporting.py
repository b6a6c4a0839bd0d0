"""From evaluated pairs to the result dictionary that is written, printed and drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from datasets import Benchmark
from engine.files import WriteFailures, side_file
from evaluation import (
    FLIP_FUSION,
    Draws,
    MethodResult,
    Resampling,
    accuracy_measure,
    average,
    paired_draws,
    report,
    summarise,
)
from tasks.recognition.validation import MethodResults, describe_folds, folds_of, precision_of

NUM_RESAMPLES = 400


def benchmark_results(
    results: Mapping[str, Mapping[str, MethodResults]], benchmarks: Sequence[Benchmark], protocol: Mapping[str, object]
) -> report.Results:
    """Return the result dictionary of `evaluation.report.results` for benchmarks.

    Args:
        results: {benchmark: {condition: {method: result}}}.
        benchmarks: the sets scored.
        protocol: facts of the run, among them `synthetic` and `missing`, which have keys of their own in the result.
    """
    facts = dict(protocol)
    return {
        "schema": report.SCHEMA,
        "synthetic": bool(facts.pop("synthetic")),
        "missing": list(facts.pop("missing")),  # type: ignore[call-overload]
        "protocol": {
            "flip_fusion": FLIP_FUSION,
            "color_space": "rgb",
            "folds": {b.name: describe_folds(b) for b in benchmarks},
            "precision": precision_of(benchmarks).text,
            "interval_method": "; ".join(sorted({_resampling(b).describe() for b in benchmarks}))
            + " plus the set's place in the list",
            **facts,
        },
        "benchmarks": {
            b.name: {
                "checksum": b.checksum(),
                "conditions": {
                    condition: {method: result.to_dict() for method, result in methods.items()}
                    for condition, methods in results[b.name].items()
                },
            }
            for b in benchmarks
        },
        "comparisons": comparisons(results, benchmarks),
    }


def comparisons(
    results: Mapping[str, Mapping[str, MethodResults]], benchmarks: Sequence[Benchmark]
) -> dict[str, dict[str, float]]:
    """Return the paired difference in accuracy of the combined score and the embedding alone, mean over the sets."""
    found: dict[str, list[Draws]] = {}
    for seed, benchmark in enumerate(benchmarks):
        for condition, methods in results[benchmark.name].items():
            if "combined" in methods:
                draws = _difference(methods["combined"], methods["adaface"], benchmark, seed)
                found.setdefault(f"combined minus embedding, accuracy, {condition}", []).append(draws)
    return {name: dict(summarise(average(draws))._asdict()) for name, draws in found.items()}


def _difference(first: MethodResult, second: MethodResult, benchmark: Benchmark, seed: int) -> Draws:
    return paired_draws(
        first.fold_scores,
        second.fold_scores,
        benchmark.issame,
        accuracy_measure(folds_of(benchmark)),
        _resampling(benchmark, seed),
    )


def _resampling(benchmark: Benchmark, seed: int = 0) -> Resampling:
    identities = None if benchmark.identities is None else benchmark.identities.reshape(-1, 2)
    return Resampling(identities, NUM_RESAMPLES, seed)


def draw_report(folder: Path, results: report.Results, failures: WriteFailures) -> None:
    """Draw the pictures of a report into its folder; `failures` is told what cannot be drawn."""
    with side_file(failures, f"{folder.name} pictures"):
        from evaluation.report import plots

        plots.plot_report(folder, results)
