"""The tables of docs/ablation.md, from the saved scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.ablation.measures import (
    WEIGHTS,
    Comparison,
    Figures,
    Pairs,
    Side,
    by_method,
    compare,
    decide,
    figures,
    scores_of,
)
from benchmarks.ablation.runner import FUSED_MAPS, Run
from benchmarks.ablation.scores import CONDITIONS, IMAGES_PER_PERSON
from benchmarks.ablation.variants import CLAIMS, FULL, VARIANTS, Claim, Method, Variant
from benchmarks.harness.docs import replace_block
from benchmarks.harness.tables import Column, to_markdown
from engine import runs
from evaluation import Interval, Resampling, unordered_pairs

RESAMPLING = Resampling(num_resamples=400)
WIDE = 40
TRIED_WEIGHTS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
ByCondition = dict[str, dict[str, Figures]]
Cells = dict[str, str | float | list[float] | None]


class Measured(NamedTuple):
    """A claim under one condition: mean over seeds with its interval, and each seed alone, in points."""

    intervals: dict[str, Interval]
    by_seed: dict[str, list[float]]


def write_tables(page: Path, output: Path, num_people: int) -> None:
    """Rewrite the page's tables with what finished runs show, and `summary.json` beside the runs."""
    pairs = all_pairs(num_people)
    finished = [(variant, run) for variant in VARIANTS if (run := first_run(variant, output)).is_done]
    development = {variant.name: development_figures(run, pairs) for variant, run in finished}
    flips, weights = flip_figures(output, pairs), weight_figures(output, pairs)
    claims = {claim.title: measure(claim, output, pairs) for claim in CLAIMS if is_measurable(claim, output)}
    text = page.read_text(encoding="utf-8")
    text = replace_block(text, "development", development_table(finished, development), page)
    text = replace_block(text, "claims", claims_table(claims), page)
    text = replace_block(text, "flips", rows_table("flips", flips, ("qaconv", "combined")), page)
    text = replace_block(text, "weights", rows_table("weight of the matcher", weights, ("combined",)), page)
    page.write_text(text, encoding="utf-8")
    runs.write_json(
        output / "summary.json", {"development": development, "claims": claims, "flips": flips, "weights": weights}
    )


def all_pairs(num_people: int) -> Pairs:
    """Return every unordered pair of a group's images."""
    labels = np.repeat(np.arange(num_people), IMAGES_PER_PERSON)
    identities = labels[unordered_pairs(len(labels))]
    return Pairs(identities[:, 0] == identities[:, 1], identities)


def first_run(variant: Variant, output: Path) -> Run:
    """Return the run of a variant's first seed."""
    return Run.of(variant, variant.seeds[0], output)


def development_figures(run: Run, pairs: Pairs) -> ByCondition:
    """Return {condition: {method: figures}} on development people."""
    return figures_of(run.scores("dev"), pairs)


def figures_of(
    saved: Mapping[str, NDArray[np.float32]], pairs: Pairs, weights: Mapping[str, float] = WEIGHTS
) -> ByCondition:
    """Return {condition: {method: figures}} of saved scores, thresholds chosen on the same pairs."""
    result = {}
    for condition in CONDITIONS:
        scores = scores_of(saved, condition)
        decision = decide(scores, pairs, weights)
        methods = by_method(scores, decision.statistics)
        result[condition] = {name: figures(v, decision.thresholds[name], pairs.issame) for name, v in methods.items()}
    return result


def development_table(finished: Sequence[tuple[Variant, Run]], development: Mapping[str, ByCondition]) -> str:
    """Return a row per variant: accuracy and TAR of embedding, matcher and fusion under each condition."""
    columns = [Column("variant", "name", width=WIDE), Column("s", "seconds", "{:.0f}")]
    columns += [Column(f"{condition}: {method}", f"{condition}/{method}", width=12) for condition in CONDITIONS
                for method in ("adaface", "combined")]  # fmt: skip
    rows = []
    for variant, run in finished:
        cells: Cells = {"name": f"`{variant.name}`", "seconds": run.record()["processor_seconds"]}
        cells |= _cells(development[variant.name])
        rows.append(cells)
    return to_markdown(columns, rows)


def flip_figures(output: Path, pairs: Pairs) -> dict[str, ByCondition]:
    """Return, by the fusion of flips, the mean over those seeds of FULL on which both were tried."""
    tried = [run for run in full_runs(output) if (run.folder / f"{FUSED_MAPS}.npz").exists()]
    by_fusion = {"scores averaged": "dev", "maps fused": FUSED_MAPS}
    return {
        name: _mean([figures_of(run.scores(file), pairs) for run in tried]) for name, file in by_fusion.items() if tried
    }


def weight_figures(output: Path, pairs: Pairs) -> dict[str, ByCondition]:
    """Return, by the matcher's weight in the fused score, the mean over the seeds of FULL."""
    saved = [run.scores("dev") for run in full_runs(output)]
    return {
        f"{weight:g}": _mean([figures_of(one, pairs, {"adaface": 1 - weight, "qaconv": weight}) for one in saved])
        for weight in TRIED_WEIGHTS
        if saved
    }


def full_runs(output: Path) -> list[Run]:
    """Return the finished runs of FULL."""
    return [run for seed in FULL.seeds if (run := Run.of(FULL, seed, output)).is_done]


def _mean(by_seed: Sequence[ByCondition]) -> ByCondition:
    return {
        condition: {
            method: Figures(*np.mean([figures[condition][method] for figures in by_seed], axis=0).tolist())
            for method in methods
        }
        for condition, methods in by_seed[0].items()
    }


def rows_table(heading: str, rows: Mapping[str, ByCondition], methods: Sequence[str]) -> str:
    """Return a row per name: accuracy and TAR of the methods under each condition."""
    columns = [Column(heading, "name", width=WIDE)]
    columns += [Column(f"{c}: {method}", f"{c}/{method}", width=12) for c in CONDITIONS for method in methods]
    return to_markdown(columns, [{"name": name, **_cells(by_condition)} for name, by_condition in rows.items()])


def _cells(by_condition: ByCondition) -> Cells:
    return {
        f"{condition}/{name}": f"{f.accuracy:.1f} / {f.tar:.1f}"
        for condition, methods in by_condition.items()
        for name, f in methods.items()
    }


def is_measurable(claim: Claim, output: Path) -> bool:
    """Return whether every run of both sides is there."""
    return all(Run.of(side.variant, seed, output).is_done for side in claim.sides for seed in claim.seeds)


def measure(claim: Claim, output: Path, pairs: Pairs) -> dict[str, Measured]:
    """Return the claim's differences on test people by condition; all choices come from development people."""
    result = {}
    for condition in CONDITIONS:
        first, second = ([_side(side, seed, condition, output, pairs) for seed in claim.seeds] for side in claim.sides)
        mean = compare(Comparison(first, second), pairs, RESAMPLING)
        alone = [compare(Comparison([a], [b]), pairs, RESAMPLING._replace(num_resamples=1))
                 for a, b in zip(first, second, strict=True)]  # fmt: skip
        result[condition] = Measured(mean, {name: [one[name].estimate for one in alone] for name in mean})
    return result


def _side(side: Method, seed: int, condition: str, output: Path, pairs: Pairs) -> Side:
    run = Run.of(side.variant, seed, output)
    decision = decide(scores_of(run.scores("dev"), condition), pairs)
    scores = by_method(scores_of(run.scores("test"), condition), decision.statistics)
    return Side(scores[side.method], decision.thresholds[side.method])


def claims_table(claims: Mapping[str, Mapping[str, Measured]]) -> str:
    """Return a row per claim and condition: the differences with intervals, and each seed's."""
    columns = [
        Column("difference", "title", width=WIDE),
        Column("pairs", "condition", width=12),
        Column("accuracy", "accuracy", width=24),
        Column("each seed", "accuracy_seeds", width=24),
        Column("TAR@FAR 1e-2", "tar", width=24),
        Column("each seed", "tar_seeds", width=24),
    ]
    rows: list[Cells] = []
    for title, by_condition in claims.items():
        for condition, measured in by_condition.items():
            cells: Cells = {"title": title, "condition": condition}
            for name, interval in measured.intervals.items():
                cells[name] = f"{interval.estimate:+.2f} [{interval.lower:+.2f}, {interval.upper:+.2f}]"
                cells[f"{name}_seeds"] = ", ".join(f"{value:+.1f}" for value in measured.by_seed[name])
            rows.append(cells)
    return to_markdown(columns, rows)
