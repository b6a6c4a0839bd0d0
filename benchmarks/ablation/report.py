"""The tables of docs/ablation.md, from the saved scores."""

from __future__ import annotations

import json
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
from benchmarks.ablation.scores import CONDITIONS, FUSED_MAPS, IMAGES_PER_PERSON, ScoredRuns
from benchmarks.ablation.variants import CLAIMS, SEEDS, VARIANTS, Claim, Method, Run
from benchmarks.harness.docs import replace_block
from benchmarks.harness.tables import Column, to_markdown
from engine import runs
from evaluation import Interval, Resampling, unordered_pairs
from system.files import write_text

RESAMPLING = Resampling(num_resamples=400)
WIDE = 40
TRIED_WEIGHTS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
ByCondition = dict[str, dict[str, Figures]]
Cells = dict[str, str | float | list[float] | None]


class Measured(NamedTuple):
    """A claim under one condition: mean over seeds with its interval, and each seed alone, in points."""

    intervals: dict[str, Interval]
    by_seed: dict[str, list[float]]


def write_tables(page: Path, root: Path, num_people: int) -> None:
    """Rewrite the page's tables with what the finished runs below `root` show, and `ablation.json` beside them."""
    scored, pairs = ScoredRuns(root, num_people), all_pairs(num_people)
    finished = [name for name in VARIANTS if Run(root, name, SEEDS[0]).folder is not None]
    development = {name: figures_of(scored(name, SEEDS[0], "dev"), pairs) for name in finished}
    full = [seed for seed in SEEDS if Run(root, "full", seed).folder is not None]
    flips, weights = flip_figures(scored, full, pairs), weight_figures(scored, full, pairs)
    claims = {claim.title: measure(claim, scored, pairs) for claim in CLAIMS if is_measurable(claim, root)}
    text = page.read_text(encoding="utf-8")
    text = replace_block(text, "development", development_table(root, development), page)
    text = replace_block(text, "claims", claims_table(claims), page)
    text = replace_block(text, "flips", rows_table("flips", flips, ("qaconv", "combined")), page)
    text = replace_block(text, "weights", rows_table("weight of the matcher", weights, ("combined",)), page)
    write_text(page, text)
    runs.write_json(
        root / "ablation.json", {"development": development, "claims": claims, "flips": flips, "weights": weights}
    )


def all_pairs(num_people: int) -> Pairs:
    """Return every unordered pair of a group's images."""
    labels = np.repeat(np.arange(num_people), IMAGES_PER_PERSON)
    identities = labels[unordered_pairs(len(labels))]
    return Pairs(identities[:, 0] == identities[:, 1], identities)


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


def development_table(root: Path, development: Mapping[str, ByCondition]) -> str:
    """Return a row per variant: accuracy and TAR of embedding, matcher and fusion under each condition."""
    columns = [Column("variant", "name", width=WIDE), Column("s", "seconds", "{:.0f}")]
    columns += [Column(f"{condition}: {method}", f"{condition}/{method}", width=12) for condition in CONDITIONS
                for method in ("adaface", "combined")]  # fmt: skip
    rows = []
    for name, found in development.items():
        folder = Run(root, name, SEEDS[0]).folder
        assert folder is not None
        beat = json.loads((folder / "heartbeat.json").read_text(encoding="utf-8"))
        rows.append({"name": f"`{name}`", "seconds": beat["running_seconds"], **_cells(found)})
    return to_markdown(columns, rows)


def flip_figures(scored: ScoredRuns, seeds: Sequence[int], pairs: Pairs) -> dict[str, ByCondition]:
    """Return, by the fusion of flips, the mean over the seeds of the whole method."""
    by_fusion = {"scores averaged": "dev", "maps fused": FUSED_MAPS}
    found = {
        name: [figures_of(scored("full", seed, kind), pairs) for seed in seeds] for name, kind in by_fusion.items()
    }
    return {name: _mean(figures) for name, figures in found.items() if figures}


def weight_figures(scored: ScoredRuns, seeds: Sequence[int], pairs: Pairs) -> dict[str, ByCondition]:
    """Return, by the matcher's weight in the fused score, the mean over the seeds of the whole method."""
    saved = [scored("full", seed, "dev") for seed in seeds]
    return {
        f"{weight:g}": _mean([figures_of(one, pairs, {"adaface": 1 - weight, "qaconv": weight}) for one in saved])
        for weight in TRIED_WEIGHTS
        if saved
    }


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


def is_measurable(claim: Claim, root: Path) -> bool:
    """Return whether every run of both sides is there."""
    return all(Run(root, side.variant, seed).folder is not None for side in claim.sides for seed in SEEDS)


def measure(claim: Claim, scored: ScoredRuns, pairs: Pairs) -> dict[str, Measured]:
    """Return the claim's differences on test people by condition; all choices come from development people."""
    result = {}
    for condition in CONDITIONS:
        first, second = ([_side(side, seed, condition, scored, pairs) for seed in SEEDS] for side in claim.sides)
        mean = compare(Comparison(first, second), pairs, RESAMPLING)
        alone = [compare(Comparison([a], [b]), pairs, RESAMPLING._replace(num_resamples=1))
                 for a, b in zip(first, second, strict=True)]  # fmt: skip
        result[condition] = Measured(mean, {name: [one[name].estimate for one in alone] for name in mean})
    return result


def _side(side: Method, seed: int, condition: str, scored: ScoredRuns, pairs: Pairs) -> Side:
    decision = decide(scores_of(scored(side.variant, seed, "dev"), condition), pairs)
    scores = by_method(scores_of(scored(side.variant, seed, "test"), condition), decision.statistics)
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
