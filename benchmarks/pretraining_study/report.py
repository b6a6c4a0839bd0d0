"""The tables of docs/pretraining.md, and of the demo."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from benchmarks.harness.docs import replace_block
from benchmarks.harness.tables import Column, to_markdown
from benchmarks.pretraining_study import scores
from benchmarks.pretraining_study.measures import accuracies, refreshes
from benchmarks.pretraining_study.scores import MEAN_COLOR, PIXELS
from benchmarks.pretraining_study.variants import ARMS, LABELS, SEEDS, STARTED_FROM, fine_tuning, pretraining
from benchmarks.studies.finished import Run
from benchmarks.studies.intervals import WIDE, Arm, Arms, Rows, minus, over_seeds, percent
from cli.pairs.image_sets import ImageSet
from engine import runs
from evaluation.report.plots import plot_bars
from system.files import write_text

UNTRAINED, PRETRAINED, SCRATCH = "untrained", "pretrained", "from scratch"
BASELINES = (UNTRAINED, MEAN_COLOR, PIXELS)
Refreshes = Sequence[Mapping[str, float | None]]


def report_demo(root: Path, prefix: str, num_folds: int) -> tuple[Path, str]:
    """Compare the newest run of a prefix with what knows nothing; return the folder that tables and picture lie in.

    Raises:
        ValueError: if it has not ended.
    """
    run = Run(root, prefix, ())
    if run.folder is None:
        raise ValueError(f"--runs {root}: no finished run {prefix}_*; make pretrain-demo trains it")
    sources = scores.open_people(num_folds)
    checkpoint = run.folder / "last.ckpt"
    arms: dict[str, Arm] = {PRETRAINED: [accuracies(scores.encoder_scores(checkpoint, sources), sources)]}
    arms |= _baselines(checkpoint, sources, [0])
    pairs = [(PRETRAINED, name) for name in BASELINES]
    told = refreshes(run.folder)
    parts = [accuracy_table(arms), differences_table(arms, pairs), *([refresh_table([told])] if told else [])]
    folder, text = run.folder / "comparison", "\n\n".join(parts)
    folder.mkdir(exist_ok=True)
    write_text(folder / "tables.md", text + "\n")
    runs.write_json(folder / "comparison.json", _content(arms, pairs) | {"refreshes": told})
    plot_bars({name: over_seeds(arm)[:3] for name, arm in arms.items()}, folder / "accuracies.png")
    return folder, text


def write_study(page: Path, root: Path, num_folds: int) -> None:
    """Rewrite the tables of a page with what the finished runs show, and `pretraining.json` beside the runs.

    Raises:
        ValueError: if no seed has all its pretrainings.
    """
    seeds = [seed for seed in SEEDS if all(pretraining(root, arm, seed).folder for arm in ARMS)]
    if not seeds:
        raise ValueError(f"--runs {root}: no seed with all pretrainings; make pretrain-study trains them")
    sources = scores.open_people(num_folds)
    arms: dict[str, Arm] = {arm: _scored([pretraining(root, arm, seed) for seed in seeds], sources) for arm in ARMS}
    folder = pretraining(root, STARTED_FROM, seeds[0]).folder
    assert folder is not None
    arms |= _baselines(folder / "last.ckpt", sources, seeds)
    plain, guessed = ARMS
    pairs = [(arm, name) for arm in ARMS for name in BASELINES] + [(guessed, plain)]
    told = [refreshes(found) for seed in seeds if (found := pretraining(root, guessed, seed).folder)]
    shares = _labels(root, seeds, sources)
    blocks = {
        "pretrained": accuracy_table(arms),
        "pretraining-differences": differences_table(arms, pairs),
        "refreshes": refresh_table(told),
        "labels": labels_table(shares),
    }
    text = page.read_text(encoding="utf-8")
    for name, block in blocks.items():
        text = replace_block(text, name, block, page)
    write_text(page, text)
    found_labels = {share: _content(both, [(PRETRAINED, SCRATCH)]) for share, both in shares.items()}
    content = {"seeds": seeds, **_content(arms, pairs), "refreshes": told, "labels": found_labels}
    runs.write_json(root / "pretraining.json", content)


def _scored(trained: Sequence[Run], sources: Sequence[ImageSet]) -> Arm:
    """Return the accuracies of finished runs, a seed each."""
    folders = [run.folder for run in trained]
    return [accuracies(scores.encoder_scores(of / "last.ckpt", sources), sources) for of in folders if of]


def _baselines(checkpoint: Path, sources: Sequence[ImageSet], seeds: Sequence[int]) -> dict[str, Arm]:
    """Return what the encoders are compared with; pixels are the same for every seed."""
    untrained = [accuracies(scores.untrained_scores(checkpoint, sources, seed), sources) for seed in seeds]
    pixels = {name: accuracies(found, sources) for name, found in scores.pixel_scores(sources).items()}
    return {UNTRAINED: untrained, **{name: [found] * len(seeds) for name, found in pixels.items()}}


def _labels(root: Path, seeds: Sequence[int], sources: Sequence[ImageSet]) -> dict[str, Arms]:
    """Return by share of the labels both ways to begin, of the seeds that have both; none: the share is left out."""
    found: dict[str, Arms] = {}
    for share in LABELS:
        both = [[fine_tuning(root, share, start, seed) for start in (True, False)] for seed in seeds]
        done = [pair for pair in both if all(run.folder for run in pair)]
        if done:
            began, scratch = zip(*done, strict=True)
            found[share] = {PRETRAINED: _scored(began, sources), SCRATCH: _scored(scratch, sources)}
    return found


def _content(arms: Arms, pairs: Sequence[tuple[str, str]]) -> dict[str, object]:
    return {
        "accuracy": {
            name: {"mean": over_seeds(arm)._asdict(), **{s: over_seeds(arm, [s])._asdict() for s in arm[0]}}
            for name, arm in arms.items()
        },
        "differences": {f"{a} minus {b}": over_seeds(minus(arms[a], arms[b]))._asdict() for a, b in pairs},
    }


def accuracy_table(arms: Arms) -> str:
    """Return a row for each encoder or baseline: the accuracy over all sets with its interval, and of each set."""
    names = list(next(iter(arms.values()))[0])
    columns = [Column("", "name", width=WIDE), Column("mean of the sets, %", "mean", width=24)]
    columns += [Column(name, name, "{:.1f}") for name in names]
    rows: Rows = [
        {"name": arm, "mean": percent(over_seeds(of)), **{one: 100 * over_seeds(of, [one]).estimate for one in names}}
        for arm, of in arms.items()
    ]
    return to_markdown(columns, rows)


def differences_table(arms: Arms, pairs: Sequence[tuple[str, str]]) -> str:
    """Return a row for each difference of mean accuracies, in points."""
    columns = [Column("difference", "name", width=WIDE), Column("points", "points", width=24)]
    rows: Rows = [
        {"name": f"{a} minus {b}", "points": percent(over_seeds(minus(arms[a], arms[b])), "+")} for a, b in pairs
    ]
    return to_markdown(columns, rows)


def refresh_table(by_seed: Sequence[Refreshes]) -> str:
    """Return a row for each time that identities were guessed, means over the seeds; a dash where none tells."""
    columns = [Column("epoch", "epoch", "{:.0f}"), Column("clusters", "num_clusters", "{:,.0f}")]
    columns += [
        Column(heading, key, "{:.1%}")
        for heading, key in (("images in clusters", "coverage"), ("pairwise precision", "precision"),
                             ("pairwise recall", "recall"), ("BCubed F", "bcubed_f"))
    ]  # fmt: skip
    rows: Rows = []
    for refresh in zip(*by_seed, strict=False):
        values = {key: [one[key] for one in refresh if one[key] is not None] for key in refresh[0]}
        rows.append({key: float(np.mean(known)) if known else None for key, known in values.items()})
    return to_markdown(columns, rows)


def labels_table(shares: Mapping[str, Arms]) -> str:
    """Return a row for each share of the labels: the accuracy both ways, and the difference in points."""
    columns = [Column("labels", "share"), Column("seeds", "seeds")]
    columns += [Column(name, name, width=24) for name in (PRETRAINED, SCRATCH, "difference")]
    rows: Rows = [
        {
            "share": share,
            "seeds": len(arms[SCRATCH]),
            **{name: percent(over_seeds(arm)) for name, arm in arms.items()},
            "difference": percent(over_seeds(minus(arms[PRETRAINED], arms[SCRATCH])), "+"),
        }
        for share, arms in shares.items()
    ]
    return to_markdown(columns, rows)
