"""The tables of docs/finetuning.md and docs/mixtures.md, and of the demo."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.finetuning_study import measures, people, variants
from benchmarks.finetuning_study.measures import Measures
from benchmarks.finetuning_study.variants import ARMS, CONSTANT, CURRICULUM, DEMO, MIXTURE, NAIVE, SEEDS, Real
from benchmarks.harness.docs import replace_block
from benchmarks.harness.tables import Column, to_markdown
from benchmarks.studies.finished import Run
from benchmarks.studies.intervals import WIDE, Arm, Arms, Rows, minus, over_seeds, percent
from engine import runs
from evaluation import average
from evaluation.report.plots import plot_bars
from system.files import write_text

BEFORE, SPECIALISTS = "before", "specialists"
SIDE = 16
GAIN, LOSS = 0.06, 0.013  # LR-HR rank-1 at SIDE, HR-HR rank-1: measured on other real faces
_KEPT = "finetuning_study.npz"
BySeed = Mapping[str, Mapping[int, Measures]]  # by arm


def report_demo(root: Path) -> tuple[Path, str]:
    """Compare the demo's arm with the network before it and with training from nothing; return folder and tables.

    Raises:
        ValueError: if it has not ended.
    """
    found = synthetic_arms(root, DEMO, SEEDS[:1])
    if len(found) <= len(DEMO):
        raise ValueError(f"--runs {root}: the demo's runs are not finished; make finetune-demo trains them")
    folder, text = root / "finetune-demo", f"{arms_table(found)}\n\n{differences_table(found)}"
    folder.mkdir(exist_ok=True)
    write_text(folder / "tables.md", text + "\n")
    runs.write_json(folder / "comparison.json", content(found))
    areas = {name: over_seeds(arm, [f"AUC {SIDE}"])[:3] for name, arm in found.items()}
    plot_bars(areas, folder / "auc.png", f"AUC of LR in HR at {SIDE} pixels, %")
    return folder, text


def write_study(page: Path, mixtures: Path, root: Path, real: Real | None) -> None:
    """Rewrite the tables of both pages that finished runs have figures for, and `finetuning.json` beside the runs.

    Raises:
        ValueError: if there are no finished runs.
    """
    studied = {"real": {} if real is None else real_arms(root, real), "synthetic": synthetic_arms(root, ARMS, SEEDS)}
    found = {name: arms for name, arms in studied.items() if len(arms) > 1}
    mixed = mixture_arms(root)
    if not found and not mixed:
        raise ValueError(f"--runs {root}: no finished runs; make finetune-study trains them")
    blocks: dict[str, str] = {}
    for name, arms in found.items():
        blocks |= {f"finetuning-{name}": arms_table(arms), f"finetuning-{name}-differences": differences_table(arms)}
    _rewrite(page, blocks)
    if mixed:
        _rewrite(mixtures, {"mixture-study": sets_table(mixed), "mixture-differences": sets_differences(mixed)})
        found["mixture"] = {name: list(of.values()) for name, of in mixed.items()}
    runs.write_json(root / "finetuning.json", {name: content(arms) for name, arms in found.items()})


def _rewrite(page: Path, blocks: Mapping[str, str]) -> None:
    text = page.read_text(encoding="utf-8")
    for name, block in blocks.items():
        text = replace_block(text, name, block, page)
    write_text(page, text)


def real_arms(root: Path, of: Real) -> dict[str, Arm]:
    """Return the figures of the arms that have finished on real faces, of the seeds that have, after those before."""
    views = people.RealPeople(of.faces).views()
    images = measures.images_of(views)
    before = measures.at_both_resolutions(measures.embedded(of.weights, _KEPT, images, "rgb"), views.labels)
    return {BEFORE: [before]} | _arms({arm: [variants.real(root, of, arm, s) for s in SEEDS] for arm in ARMS}, views)


def synthetic_arms(root: Path, arms: Sequence[str] | Mapping[str, object], seeds: Sequence[int]) -> dict[str, Arm]:
    """Return likewise those of arms on drawn faces; none without the network that they start from."""
    start = variants.network(root)
    if start.folder is None:
        return {}
    views = people.synthetic_views()
    trained = {arm: [variants.synthetic(root, arm, seed) for seed in seeds] for arm in arms}
    return _arms({BEFORE: [start]}, views) | _arms(trained, views)


def _arms(trained: Mapping[str, Sequence[Run]], views: people.Views) -> dict[str, Arm]:
    images = measures.images_of(views)
    arms: dict[str, Arm] = {}
    for arm, of in trained.items():
        files = [path for run in of if (path := variants.checkpoint(run, arm))]
        if files:
            arms[arm] = [
                measures.at_both_resolutions(measures.embedded(path, _KEPT, images), views.labels) for path in files
            ]
    return arms


def mixture_arms(root: Path) -> dict[str, dict[int, Measures]]:
    """Return by arm and seed the AUC on each set, as far as the runs have finished.

    The specialists are one arm: each is measured on its own set.
    """
    views = people.mixture_views()
    images = {name: each for name, (_, each) in views.items()}
    found: dict[str, dict[int, Measures]] = {}
    for seed in SEEDS:
        done = {arm: run.folder for arm, run in variants.mixture(root, seed).items() if run.folder}
        scored = {
            arm: _by_set(measures.embedded(folder / "last.ckpt", _KEPT, images), views) for arm, folder in done.items()
        }
        if all(name in scored for name in people.SETS):
            scored[SPECIALISTS] = {name: scored[name][name] for name in people.SETS}
        for arm in (MIXTURE, SPECIALISTS, NAIVE, CURRICULUM, CONSTANT):
            if arm in scored:
                found.setdefault(arm, {})[seed] = scored[arm]
    return found


def _by_set(found: Mapping[str, measures.Embeddings], views: Mapping[str, tuple[measures.Labels, object]]) -> Measures:
    return {name: measures.compared(each, each, views[name][0])["AUC"] for name, each in found.items()}


def content(arms: Arms) -> dict[str, object]:
    """Return all figures with their intervals, by arm, and how many seeds each has."""
    return {
        name: {"seeds": len(arm)} | {figure: over_seeds(arm, [figure])._asdict() for figure in arm[0]}
        for name, arm in arms.items()
    }


def arms_table(arms: Arms) -> str:
    """Return a row for each arm: rank-1 and AUC of LR in HR by side, of HR in HR, and mean cosines at SIDE."""
    columns = [Column("", "name", width=WIDE), Column("seeds", "seeds")]
    columns += [Column(f"rank-1, {side} px", f"rank-1 {side}", width=24) for side in people.SIDES]
    columns += [Column(f"AUC, {SIDE} px", f"AUC {SIDE}", width=24)]
    columns += [Column("HR rank-1", "rank-1 HR", width=24), Column("HR AUC", "AUC HR", width=24)]
    columns += [Column("paired", "paired"), Column("impostor", "impostor")]
    shown = [column.key for column in columns[2:-2]]
    rows: Rows = []
    for name, arm in arms.items():
        cosines = {key: f"{over_seeds(arm, [f'{key} {SIDE}']).estimate:.2f}" for key in ("paired", "impostor")}
        figures = {key: percent(over_seeds(arm, [key])) for key in shown}
        rows.append({"name": name, "seeds": str(len(arm)), **figures, **cosines})
    return to_markdown(columns, rows)


def differences_table(arms: Arms) -> str:
    """Return a row for each arm: points gained over the network before, by its own people, and whether that is enough.

    Enough is the bar of other real faces: GAIN of rank-1 at SIDE or more, at a loss of HR rank-1 of LOSS at most.
    """
    figures = [f"rank-1 {side}" for side in people.SIDES] + [f"AUC {SIDE}", "rank-1 HR", "AUC HR"]
    columns = [Column("points over before", "name", width=WIDE), *(Column(name, name, width=24) for name in figures)]
    columns += [Column("bar", "bar")]
    rows: Rows = []
    for name, arm in arms.items():
        if name != BEFORE:
            gained = minus(arm, [arms[BEFORE][0]] * len(arm))
            by_figure = {figure: over_seeds(gained, [figure]) for figure in figures}
            met = by_figure[f"rank-1 {SIDE}"].estimate >= GAIN and by_figure["rank-1 HR"].estimate >= -LOSS
            told = {figure: percent(each, "+") for figure, each in by_figure.items()}
            rows.append({"name": name, "bar": "met" if met else "missed", **told})
    return to_markdown(columns, rows)


def sets_table(arms: BySeed) -> str:
    """Return a row for each arm of the mixture study: AUC on each set, and the mean."""
    columns = [Column("", "name", width=WIDE), Column("seeds", "seeds")]
    columns += [Column(name, name, width=24) for name in (*people.SETS, "mean")]
    rows: Rows = [
        {"name": name, "seeds": str(len(of)), **_percent_by_set(list(of.values()))} for name, of in arms.items()
    ]
    return to_markdown(columns, rows)


def sets_differences(arms: BySeed) -> str:
    """Return a row for each comparison, over the seeds that both have, in points of AUC."""
    columns = [Column("difference", "name", width=WIDE), *(Column(n, n, width=24) for n in (*people.SETS, "mean"))]
    rows: Rows = []
    for first, second in ((MIXTURE, SPECIALISTS), (MIXTURE, NAIVE), (CURRICULUM, CONSTANT)):
        seeds = arms.get(first, {}).keys() & arms.get(second, {}).keys()
        if seeds:
            differences = minus(*([arms[name][seed] for seed in sorted(seeds)] for name in (first, second)))
            rows.append({"name": f"{first} minus {second}", **_percent_by_set(differences, "+")})
    return to_markdown(columns, rows)


def _percent_by_set(arm: Arm, sign: str = "") -> dict[str, str]:
    means = [{"mean": average([one[name] for name in people.SETS])} for one in arm]
    by_set = {name: percent(over_seeds(arm, [name]), sign) for name in people.SETS}
    return by_set | {"mean": percent(over_seeds(means, ["mean"]), sign)}
