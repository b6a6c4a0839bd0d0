"""The ablation's measures, its tables, and one tiny run of the program."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from programs import ROOT
from untrained import write_checkpoint

from benchmarks.ablation import __main__ as program
from benchmarks.ablation import report
from benchmarks.ablation.measures import Comparison, Side, balanced_accuracy, by_method, compare, decide, figures
from benchmarks.ablation.scores import CONDITIONS, FUSED_MAPS, SEEN, UNSEEN, render_people
from benchmarks.ablation.variants import CLAIMED, CLAIMS, RECIPES, SEEDS, VARIANTS, Run
from config import get_args
from evaluation import Resampling
from transforms import OCCLUDER_FAMILIES, OCCLUDERS

PEOPLE = 12
PAGE = "".join(f"<!-- {name} -->\n<!-- /{name} -->\n\n" for name in ("development", "claims", "flips", "weights"))


@pytest.fixture(scope="module")
def pairs():
    return report.all_pairs(PEOPLE)


def scores(pairs, gap, seed=0):
    drawn = np.random.default_rng(seed).normal(size=pairs.issame.size)
    return (drawn + gap * pairs.issame).astype(np.float32)


def test_unseen_occluders_share_no_family_with_those_of_the_training():
    families = {name: family for family, names in OCCLUDER_FAMILIES.items() for name in names}
    assert not {families[name] for name in SEEN} & {families[name] for name in UNSEEN}
    assert set(SEEN) | set(UNSEEN) == set(OCCLUDERS)


def test_people_of_the_groups_differ_and_only_the_conditions_change_an_image():
    dev, test = render_people("dev", 2), render_people("test", 2)
    assert not np.array_equal(dev.images["clean"], test.images["clean"])
    for condition in ("seen", "unseen"):
        assert (dev.images[condition] != dev.images["clean"]).any((1, 2, 3)).all()
    np.testing.assert_array_equal(render_people("dev", 2).images["unseen"], dev.images["unseen"])


@pytest.mark.parametrize("path", sorted(RECIPES.rglob("*.args")), ids=lambda path: path.stem)
def test_every_variant_is_a_valid_command_on_the_same_data(path):
    config, common = get_args([f"@{path}"]), get_args([f"@{RECIPES / 'common.args'}"])
    assert config.margin_warmup_epochs == pytest.approx(0.4 * config.epochs)
    assert config.check_val_every_n_epoch == config.epochs
    assert set(config.occluders) == set(SEEN)
    alike = ("synthetic_identities", "synthetic_images", "batch_size", "occlusion_prob", "arch", "weight_decay")
    assert all(getattr(config, name) == getattr(common, name) for name in alike)


def test_claims_are_about_variants_with_all_seeds():
    assert {side.variant for claim in CLAIMS for side in claim.sides} == set(CLAIMED) < set(VARIANTS)


def test_balanced_accuracy_counts_both_kinds_equally(pairs):
    rejects_all = np.full(pairs.issame.size, -1.0)
    ones = np.ones((1, pairs.issame.size))
    assert balanced_accuracy(rejects_all, pairs.issame)(ones) == pytest.approx(0.5)
    assert balanced_accuracy(np.where(pairs.issame, 1.0, -1.0), pairs.issame)(ones) == pytest.approx(1.0)


def test_two_independent_matchers_are_better_fused(pairs):
    two = {"adaface": scores(pairs, 2.0), "qaconv": scores(pairs, 2.0, seed=1)}
    decision = decide(two, pairs)
    shown = {
        name: figures(values, decision.thresholds[name], pairs.issame)
        for name, values in by_method(two, decision.statistics).items()
    }
    assert list(shown) == ["adaface", "qaconv", "combined"]
    assert shown["combined"].accuracy > max(shown["adaface"].accuracy, shown["qaconv"].accuracy) + 2
    assert shown["combined"].tar > shown["adaface"].tar


def test_a_comparison_of_a_run_with_itself_is_zero(pairs):
    side = Side(scores(pairs, 2.0).astype(np.float64), 1.0)
    better = Side(scores(pairs, 4.0).astype(np.float64), 2.0)
    resampling = Resampling(num_resamples=20)
    nothing = compare(Comparison([side, side], [side, side]), pairs, resampling)
    assert nothing["accuracy"][:3] == nothing["tar"][:3] == (0.0, 0.0, 0.0)
    gain = compare(Comparison([better], [side]), pairs, resampling)
    assert gain["accuracy"].lower > 5 and gain["tar"].lower > 5


def fake_run(variant, seed, root, pairs, gap):
    folder = root / f"ablation-{variant}-{seed}_01-01_0"
    (folder / "report").mkdir(parents=True)
    for number, group in enumerate(("dev", "test")):
        values = {
            f"{condition}/{matcher}": scores(pairs, gap, seed=100 * seed + 10 * number + place)
            for condition in CONDITIONS
            for place, matcher in enumerate(("adaface", "qaconv"))
        }
        np.savez(folder / f"ablation_{group}_{PEOPLE}.npz", **values)
    shutil.copy(folder / f"ablation_dev_{PEOPLE}.npz", folder / f"ablation_{FUSED_MAPS}_{PEOPLE}.npz")
    (folder / "heartbeat.json").write_text(json.dumps({"running_seconds": 60.0}))
    (folder / "report/results.json").write_text("{}")


def test_tables_show_finished_runs_and_measurable_claims_only(tmp_path, pairs, monkeypatch):
    monkeypatch.setattr(report, "RESAMPLING", Resampling(num_resamples=10))
    claim = CLAIMS[0]
    for side, gap in zip(claim.sides, (3.0, 2.0), strict=True):
        for seed in SEEDS:
            fake_run(side.variant, seed, tmp_path, pairs, gap)
    page = tmp_path / "ablation.md"
    page.write_text(PAGE)
    report.write_tables(page, tmp_path, PEOPLE)
    text = page.read_text()
    averaged, fused = (
        re.search(rf"^\| {name} \| (.*)$", text, re.MULTILINE)[1] for name in ("scores averaged", "maps fused")
    )
    assert averaged == fused
    assert all(f"\n| {weight:g} | " in text for weight in report.TRIED_WEIGHTS)
    shown = set(re.findall(r"^\| `(\S+)`", text, re.MULTILINE))
    assert shown == {side.variant for side in claim.sides}
    assert text.count(f"| {claim.title} |") == len(CONDITIONS)
    assert set(json.loads((tmp_path / "ablation.json").read_text())["development"]) == shown


def test_a_run_that_was_not_finished_is_passed_over(tmp_path, pairs):
    assert Run(tmp_path, "full", 1).folder is None
    fake_run("full", 1, tmp_path, pairs, 1.0)
    (tmp_path / "ablation-full-1_01-02_1").mkdir()
    assert Run(tmp_path, "full", 1).folder == tmp_path / "ablation-full-1_01-01_0"
    assert Run(tmp_path, "full-none", 1).folder is None


def test_make_trains_what_is_not_finished(tmp_path):
    for path in ("ablation/claims/full.args", "ablation/choices/full-mean.args", "ablation-full-2_01-01_0/config.json",
                 "ablation-full-1_01-01_0/report/results.json"):  # fmt: skip
        (tmp_path / "experiments" / path).parent.mkdir(parents=True)
        (tmp_path / "experiments" / path).touch()
    command = ["make", "-s", "-C", tmp_path, "-f", ROOT / "Makefile", "-o", "setup", "ablation", "PY=echo"]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert sorted(lines[:-1]) == [
        f"main.py @experiments/ablation/{recipe}.args --seed {seed} --prefix ablation-{Path(recipe).stem}-{seed}"
        " --resume_from_checkpoint auto"
        for recipe, seed in (("choices/full-mean", 1), ("claims/full", 2), ("claims/full", 3))
    ]
    assert lines[-1] == "-m benchmarks.ablation"


def test_the_program_scores_a_run_once_and_writes_its_tables(tmp_path):
    page = tmp_path / "ablation.md"
    page.write_text(PAGE)
    folder = tmp_path / "runs/ablation-full-1_01-01_0"
    (folder / "report").mkdir(parents=True)
    write_checkpoint(folder / "last.ckpt")
    (folder / "heartbeat.json").write_text(json.dumps({"running_seconds": 60.0}))
    (folder / "report/results.json").write_text("{}")
    words = ["--people", "8", "--runs", str(tmp_path / "runs"), "--docs", str(page)]
    program.main(words)
    text = page.read_text()
    assert "| `full` | 60 |" in text and "| maps fused |" in text
    scored = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.npz")}
    program.main(words)
    assert scored == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.npz")} and len(scored) == 2
    later = max(scored.values()) + 10**9
    os.utime(folder / "last.ckpt", ns=(later, later))  # the run went on
    program.main(words)
    assert all(path.stat().st_mtime_ns != time for path, time in scored.items())
