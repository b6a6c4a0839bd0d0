"""The study of pretraining: its commands, its measures against others, and its tables from untrained networks."""

import json

import numpy as np
import pytest
import torch
from untrained import write_checkpoint

from benchmarks.pretraining_study import measures, report, scores, variants
from benchmarks.pretraining_study.__main__ import main
from benchmarks.pretraining_study.measures import accuracies
from benchmarks.pretraining_study.report import PRETRAINED, SCRATCH
from benchmarks.pretraining_study.variants import ARMS, LABELS, SEEDS, fine_tuning, pretraining
from benchmarks.studies.finished import is_finished
from benchmarks.studies.intervals import minus, over_seeds
from cli.pairs.image_sets import from_benchmark
from config import explicit_flags, get_args, get_pretraining_args
from datasets import Benchmark
from evaluation import Resampling, paired_bootstrap
from system import ROOT

BLOCKS = ("pretrained", "pretraining-differences", "refreshes", "labels")
PAGE = "".join(f"<!-- {name} -->\n<!-- /{name} -->\n" for name in BLOCKS)
REFRESH = {"epoch": 4, "num_clusters": 7, "coverage": 0.5, "edge_recall": 1.0}
REFRESH |= {"quality": {"single": {"precision": 0.25, "recall": None, "bcubed_f": 0.1}}}


def people(name, num_pairs=12, seed=0):
    """Return a set of two folds, half of the pairs genuine, every second person in one genuine pair."""
    rng = np.random.default_rng(seed)
    issame = np.arange(num_pairs) % 2 == 0
    first = np.arange(num_pairs)
    identities = np.stack([first, np.where(issame, first, (first + 2) % num_pairs)], axis=1)
    images = rng.integers(0, 255, (2 * num_pairs, 112, 112, 3), dtype=np.uint8)
    return Benchmark(images, issame, name, np.arange(num_pairs) // (num_pairs // 2), identities.ravel())


@pytest.fixture
def sources():
    return [from_benchmark(people("one")), from_benchmark(people("two", seed=1))]


def drawn(sources, seed, gap):
    rng = np.random.default_rng(seed)
    return {s.name: (rng.normal(size=s.issame.size) + gap * s.issame).astype(np.float32) for s in sources}


def finish(folder, **options):
    """Write what a recognizer's run leaves that has ended."""
    (folder / "report").mkdir(parents=True)
    (folder / "report/results.json").write_text("{}")
    write_checkpoint(folder / "last.ckpt", **options)


def finish_all(root, seeds):
    for seed in seeds:
        for arm, (name, _) in ARMS.items():
            finish(root / f"pretraining-{name}-{seed}_01-01_0")
            (root / f"pretraining-{name}-{seed}_01-01_0/clusters").mkdir()
            for epoch in (4, 6):
                told = json.dumps(REFRESH | {"epoch": epoch})
                (pretraining(root, arm, seed).folder / f"clusters/epoch_{epoch:04d}.json").write_text(told)


def test_a_difference_is_that_of_the_paired_bootstrap_over_people(sources):
    source = sources[:1]
    good, bad = drawn(source, 0, 3.0), drawn(source, 1, 1.0)
    found = over_seeds(minus([accuracies(good, source)], [accuracies(bad, source)]))
    resampling = Resampling(source[0].identities.reshape(-1, 2), measures.NUM_RESAMPLES, 0)
    expected = paired_bootstrap(
        good["one"], bad["one"], source[0].issame, measures.accuracy_measure(source[0].folds), resampling
    )
    assert found == pytest.approx(expected)


def test_seeds_and_sets_are_averaged_and_seeds_that_disagree_widen_the_interval(sources):
    arm = [accuracies(drawn(sources, seed, gap), sources) for seed, gap in ((0, 4.0), (1, 0.0))]
    found = over_seeds(arm)
    assert found.estimate == pytest.approx(np.mean([one[name].estimate for one in arm for name in ("one", "two")]))
    assert over_seeds(arm, ["two"]).estimate == pytest.approx(np.mean([one["two"].estimate for one in arm]))
    alike = over_seeds([arm[0], arm[0]])
    assert alike == pytest.approx(over_seeds(arm[:1]))
    assert found.upper - found.lower > alike.upper - alike.lower


def test_commands_are_valid_and_take_equal_steps(tmp_path):
    finish_all(tmp_path, SEEDS)
    plain, guessed = (get_pretraining_args([*pretraining(tmp_path, arm, 2).command.split()[1:]]) for arm in ARMS)
    assert plain.seed == 2 and plain.epochs == guessed.epochs
    assert not any(share for _, share in plain.pseudo_shares()) and any(s for _, s in guessed.pseudo_shares())
    for share in LABELS:
        both = [fine_tuning(tmp_path, share, start, 1) for start in (True, False)]
        began, scratch = (get_args(run.command.split()) for run in both)
        assert began.start_from_model_statedict == str(tmp_path / "pretraining-pseudo-1_01-01_0/last.ckpt")
        assert scratch.start_from_model_statedict is None
        same = {"prefix", "start_from_model_statedict"}
        assert {k: v for k, v in began.to_dict().items() if k not in same} == {
            k: v for k, v in scratch.to_dict().items() if k not in same
        }
        assert "resume_from_checkpoint" in explicit_flags(both[0].command.split())


def test_the_labels_are_of_a_share_of_the_images_and_of_five_each_person():
    few, more = (variants_positions(name) for name in ("1", "10"))
    assert (len(few), len(more)) == (40, 400) and set(few) <= set(more) and max(more) < 4000
    assert set(np.bincount(more // 20)) == {0, 5} or set(np.bincount(more // 20)) == {5}


def variants_positions(name):
    path = ROOT / LABELS[f"{name} %"][2][1]
    return np.array(path.read_text().split(), np.int64)


def test_what_has_ended_is_passed_over(tmp_path, capsys):
    with pytest.raises(ValueError, match=r"no finished pretraining of .* seed 1; it comes first"):
        list(variants.unfinished(tmp_path, "fine-tuning"))
    finish_all(tmp_path, (1, 3))
    assert main(["--list", "pretraining", "--runs", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[-3] for line in lines] == ["pretraining-moco-2", "pretraining-pseudo-2"]


@pytest.mark.parametrize(("processed", "ended"), [(7, False), (8, True)])
def test_a_pretraining_has_ended_with_its_last_epoch(tmp_path, processed, ended):
    loops = {"fit_loop": {"epoch_progress": {"current": {"processed": processed}}}}
    torch.save({"loops": loops, "hyper_parameters": {"config": {"epochs": 8}}}, tmp_path / "last.ckpt")
    assert is_finished(tmp_path) is ended
    assert not is_finished(tmp_path / "empty")


def test_untrained_networks_follow_the_seed_and_not_the_checkpoint(sources, tmp_path):
    path, sources = write_checkpoint(tmp_path / "last.ckpt"), sources[:1]
    own = scores.encoder_scores(path, sources)
    first, again, other = (scores.untrained_scores(path, sources, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first["one"], again["one"])
    assert not np.array_equal(first["one"], other["one"]) and not np.array_equal(first["one"], own["one"])
    write_checkpoint(path, arch="ir_tiny", embedding_size=8)  # newer than the scores that were kept
    assert not np.array_equal(scores.encoder_scores(path, sources)["one"], own["one"])


def test_pixels_tell_images_apart_by_what_they_show():
    benchmark = people("one")
    benchmark.images[1::2][benchmark.issame] = benchmark.images[::2][benchmark.issame]
    found = scores.pixel_scores([from_benchmark(benchmark)])
    assert list(found) == [scores.MEAN_COLOR, scores.PIXELS]
    assert found[scores.PIXELS]["one"][benchmark.issame] == pytest.approx(1.0, abs=1e-5)
    assert found[scores.PIXELS]["one"][~benchmark.issame].max() < 0.9


def test_some_folds_are_the_first_ones(monkeypatch, tmp_path):
    monkeypatch.setattr(scores, "prepare_synthetic", lambda: tmp_path)
    monkeypatch.setattr(scores, "open_sets", lambda folder: [people("one")])
    (source,) = scores.open_people(1)
    np.testing.assert_array_equal(source.images, people("one").images[:12])
    assert set(source.folds.tolist()) == {0} and len(source.identities) == 12


def invented(checkpoint, sources, seed=0):
    """Return scores by the run's name: those of both arms are equal, those of pretrained recognizers perfect."""
    perfect = "finetune-pretrained" in str(checkpoint)
    return {s.name: 1.0 * s.issame for s in sources} if perfect else drawn(sources, seed, 0.5)


def refused(words):
    with pytest.raises(SystemExit, match="2"):
        main(words)


def test_the_demo_and_the_study_write_their_tables(sources, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(scores, "open_people", lambda num_folds: sources)
    monkeypatch.setattr(scores, "encoder_scores", invented)
    monkeypatch.setattr(scores, "untrained_scores", invented)
    refused(["--demo", "tried", "--runs", str(tmp_path)])
    assert "no finished run tried_*; make pretrain-demo trains it" in capsys.readouterr().err
    finish(tmp_path / "tried_01-01_0")
    assert main(["--demo", "tried", "--runs", str(tmp_path)]) == 0
    folder = tmp_path / "tried_01-01_0/comparison"
    assert (folder / "tables.md").read_text().rstrip() in capsys.readouterr().out
    told = json.loads((folder / "comparison.json").read_text())
    assert told["differences"].keys() == {f"{PRETRAINED} minus {name}" for name in report.BASELINES}
    assert told["refreshes"] == [] and (folder / "accuracies.png").stat().st_size > 3000

    page = tmp_path / "page.md"
    page.write_text(PAGE)
    arguments = ["--runs", str(tmp_path), "--docs", str(page)]
    refused(arguments)
    assert "no seed with all pretrainings" in capsys.readouterr().err
    finish_all(tmp_path, (1, 2))
    for kind in ("pretrained", "scratch"):
        finish(tmp_path / f"finetune-{kind}-10-1_01-01_0")
    assert main(arguments) == 0
    text = page.read_text()
    assert "| MoCo + pseudo-identities minus MoCo | +0.0 [+0.0, +0.0] |" in text  # the same scores
    assert "| 4 | 7 | 50.0% | 25.0% | - | 10.0% |" in text
    assert "| 10 % | 1 | 100.0 [" in text and "| 1 % |" not in text and SCRATCH in text
    told = json.loads((tmp_path / "pretraining.json").read_text())
    assert told["seeds"] == [1, 2] and list(told["labels"]) == ["10 %"]
