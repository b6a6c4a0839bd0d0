"""The tables of docs/ablation.md and the picture of the README, from the saved scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.ablation import measures
from benchmarks.ablation.measures import Interval, Pairs, Rates
from benchmarks.ablation.scores import CONDITIONS, ScoredRuns, pair_people
from benchmarks.ablation.variants import BASELINE, METHOD, SEEDS, Run
from benchmarks.harness.docs import replace_block
from benchmarks.harness.tables import Column, to_markdown
from engine import runs
from evaluation.report.plots import plot_shares
from system.files import write_text

DEPLOYED = ("head only, raw", "head only, normalized", "embedding, raw", "embedding", "matcher, raw", "matcher",
            "fused, raw", "fused")  # fmt: skip
DIFFERENCES = (
    ("fused", "head only, raw"), ("fused", "head only, normalized"), ("embedding", "head only, normalized"),
    ("fused", "fused, raw"), ("fused", "embedding"),
)  # fmt: skip
ORDER = (("predicted map", "no map"), ("predicted map", "map in the norm alone"), ("true map", "predicted map"))
EDGES = (0.0, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.01)
WIDE = 30
ByCondition = Mapping[str, Mapping[str, Rates]]
OwnFigures = Mapping[str, Mapping[str, tuple[float, float]]]
Rows = list[dict[str, str | float | list[float] | None]]


def write_tables(page: Path, picture: Path, root: Path, num_people: Mapping[str, int], num_draws: int) -> None:
    """Rewrite the page's tables and the picture with what the finished runs below `root` show; `ablation.json` too."""
    scored = ScoredRuns(root, dict(num_people), num_draws)
    seeds = [seed for seed in SEEDS if all(Run(root, name, seed).folder for name in (METHOD, BASELINE))]
    if not seeds:
        raise ValueError(
            f"--runs {root}: no seed with finished runs of {METHOD} and {BASELINE}; make ablation trains them"
        )
    test, dev = (_pairs(num_people[group]) for group in ("test", "dev"))
    tests, arms = [], []
    for seed in seeds:
        own, fit = scored(METHOD, seed, "test"), scored(METHOD, seed, "dev")
        head = scored(BASELINE, seed, "test"), scored(BASELINE, seed, "dev")
        arms.append(measures.arms_of_method(own, fit, dev) | measures.arms_of_head(*head, dev, own, fit))
        tests.append(own)
    rates = {condition: measures.rates(arms, test, condition) for condition in CONDITIONS}
    own_figures = {condition: measures.own_figures(arms, test, condition) for condition in CONDITIONS}
    shares = measures.by_share(arms, tests, test, ("fused, raw", "fused"), EDGES)
    blocks = {
        "deployed": deployed_table(rates, own_figures),
        "differences": differences_table(rates),
        "order": order_table(rates, own_figures),
        "shares": shares_table(shares),
    }
    text = page.read_text(encoding="utf-8")
    for name, block in blocks.items():
        text = replace_block(text, name, block, page)
    write_text(page, text)
    plot_shares(shares, measures.FAR, picture)
    found = {"rates": _estimates(rates), "own": own_figures, "shares": shares}
    protocol = {"seeds": seeds, "people": dict(num_people), "draws": num_draws, "impostors": int((~test.issame).sum())}
    runs.write_json(root / "ablation.json", protocol | found)


def _pairs(num_people: int) -> Pairs:
    people = pair_people(num_people)
    return Pairs(people, people[:, 0] == people[:, 1])


def _estimates(rates: ByCondition) -> dict[str, Any]:
    return {
        condition: {
            name: {what: measures.interval(getattr(found, what)) for what in ("far", "tar", "accuracy")}
            for name, found in by.items()
        }
        for condition, by in rates.items()
    }


def deployed_table(rates: ByCondition, own: OwnFigures) -> str:
    """Return a row per score: FAR, TAR and balanced accuracy at the clean threshold, and TAR at the own one."""
    columns = [Column("score", "name", width=WIDE), *(Column(c, c, width=24) for c in CONDITIONS)]
    rows: Rows = []
    for name in DEPLOYED:
        cells = {}
        for condition, by in rates.items():
            far, tar, accuracy = (values[0] for values in (by[name].far, by[name].tar, by[name].accuracy))
            cells[condition] = f"{far:.2f} / {tar:.1f} / {accuracy:.1f} ({own[condition][name][1]:.1f})"
        rows.append({"name": name, **cells})
    return to_markdown(columns, rows)


def differences_table(rates: ByCondition) -> str:
    """Return a row per difference and condition: TAR and balanced accuracy in points, with intervals."""
    columns = [
        Column("difference", "name", width=WIDE),
        Column("pairs", "condition", width=14),
        Column("TAR", "tar", width=24),
        Column("balanced accuracy", "accuracy", width=24),
    ]
    rows: Rows = [
        {"name": f"{first} minus {second}", "condition": condition, **_difference(by[first], by[second])}
        for first, second in DIFFERENCES
        for condition, by in rates.items()
    ]
    return to_markdown(columns, rows)


def order_table(rates: ByCondition, own: OwnFigures) -> str:
    """Return a row per difference of maps and condition: TAR and accuracy with intervals, AUC and own TAR."""
    columns = [
        Column("difference", "name", width=WIDE),
        Column("pairs", "condition", width=14),
        Column("TAR", "tar", width=24),
        Column("balanced accuracy", "accuracy", width=24),
        Column("AUC", "auc"),
        Column("TAR at its own FAR 1 %", "own"),
    ]
    rows: Rows = []
    for score in ("matcher", "fused"):
        for first, second in ORDER:
            a, b = f"{score}, {first}", f"{score}, {second}"
            for condition, by in rates.items():
                if condition == "clean":
                    continue
                auc, tar = (own[condition][a][place] - own[condition][b][place] for place in (0, 1))
                rows.append({"name": f"{score}: {first} minus {second}", "condition": condition,
                             **_difference(by[a], by[b]), "auc": f"{auc:+.2f}", "own": f"{tar:+.1f}"})  # fmt: skip
    return to_markdown(columns, rows)


def _difference(first: Rates, second: Rates) -> dict[str, str]:
    return {
        what: _text(measures.interval(getattr(first, what) - getattr(second, what))) for what in ("tar", "accuracy")
    }


def _text(found: Interval) -> str:
    return f"{found.estimate:+.1f} [{found.lower:+.1f}, {found.upper:+.1f}]"


def shares_table(shares: Mapping[str, Sequence[Mapping[str, float]]]) -> str:
    """Return a row per bin of the co-visible share."""
    columns = [Column("co-visible share", "name", width=WIDE), Column("pairs", "pairs", "{:,}")]
    columns += [Column(f"{name}: FAR / TAR / accuracy", name, width=24) for name in shares]
    bins = zip(*shares.values(), strict=True)
    rows: Rows = [
        {"name": f"{one[0]['from']:.1f} to {min(one[0]['to'], 1.0):.1f}", "pairs": one[0]["pairs"]}
        | {name: f"{b['far']:.2f} / {b['tar']:.1f} / {b['accuracy']:.1f}" for name, b in zip(shares, one, strict=True)}
        for one in bins
    ]
    return to_markdown(columns, rows)
