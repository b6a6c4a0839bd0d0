"""The study of fine-tuning: its commands, who is tested on, its measures against others, and its tables."""

import json
import shlex

import cv2
import numpy as np
import pytest
from untrained import write_checkpoint

from benchmarks.finetuning_study import measures, people, report, variants
from benchmarks.finetuning_study.__main__ import PARTS, main
from benchmarks.finetuning_study.variants import ARMS, DEMO, PAIRED, SCRATCH, Real
from benchmarks.studies.intervals import minus, over_seeds
from config import get_args
from evaluation import paired_views

SEEDS = (1, 2)
BLOCKS = ("finetuning-real", "finetuning-real-differences", "finetuning-synthetic", "finetuning-synthetic-differences")
MIXED = ("mixture-study", "mixture-differences")


def page(path, names):
    path.write_text("".join(f"<!-- {name} -->\n<!-- /{name} -->\n" for name in names))
    return path


@pytest.fixture(autouse=True)
def few_people_and_seeds(monkeypatch):
    monkeypatch.setattr(people, "TRAIN", (6, 2))
    monkeypatch.setattr(people, "TEST", (3, 2))
    monkeypatch.setattr(people, "_SHARED", 2)
    for module in (variants, report):
        monkeypatch.setattr(module, "SEEDS", SEEDS)


@pytest.fixture
def real(tmp_path):
    """Eight people of two images, whose gray level is their number."""
    for number in range(1, 9):
        folder = tmp_path / f"faces/s{number if number < 8 else 10}"
        folder.mkdir(parents=True)
        for image in range(2):
            cv2.imwrite(str(folder / f"{image}.png"), np.full((112, 112, 3), 20 * number + image, np.uint8))
    return Real(tmp_path / "faces", tmp_path / "weights.pt")


def finish(folder):
    (folder / "report").mkdir(parents=True)
    for name in ("report/results.json", "last.ckpt"):
        (folder / name).touch()


def drawn(seed, num=12):
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(2, num, 8)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True), np.arange(num) // 3


def test_figures_are_those_of_paired_views():
    (hr, lr), labels = drawn(0)
    found, expected = measures.compared(lr, hr, labels), paired_views(hr, lr, labels).figures()
    for name, of_views in (
        ("rank-1", "lr_hr_rank1"),
        ("AUC", "lr_hr_auc"),
        ("paired", "paired_mean"),
        ("impostor", "lr_hr_impostor_mean"),
    ):
        assert found[name].estimate == pytest.approx(expected[of_views], abs=1e-6)
        assert np.nanstd(found[name].values) > 0
    assert measures.compared(hr, hr, labels)["rank-1"].estimate == expected["hr_hr_rank1"]


def test_networks_meet_the_same_people_and_draws_of_the_degradation_are_averaged():
    (hr, lr), labels = drawn(1)
    one = measures.at_both_resolutions({"hr": hr, "16/0": lr}, labels)
    both = measures.at_both_resolutions({"hr": hr, "16/0": lr, "16/1": hr}, labels)
    assert both["AUC 16"].estimate == pytest.approx((one["AUC 16"].estimate + one["AUC HR"].estimate) / 2)
    np.testing.assert_allclose(both["AUC 16"].values, (one["AUC 16"].values + one["AUC HR"].values) / 2)
    nothing = over_seeds(minus([one], [one]), ["rank-1 16"])
    assert nothing[:3] == (0, 0, 0)


def test_the_last_quarter_of_the_people_by_number_is_tested_on_and_not_trained_on(real, tmp_path):
    of = people.RealPeople(real.faces)
    trained = np.array(of.write_positions(tmp_path / "deep/positions.txt").read_text().split(), int)
    views = of.views()
    assert [int(image[0, 0, 0]) // 20 for image in views.hr[::2]] == [8, 7]  # s10 is before s7 in the folder
    assert len(trained) == 12 and not {int(i) for i in trained} & {2, 3, 14, 15}
    assert list(views.lr) == [24, 16, 12, 8] and len(views.lr[8]) == 3 and views.lr[8][0].shape == views.hr.shape
    assert not np.array_equal(views.lr[8][0], views.lr[8][1])
    with pytest.raises(ValueError, match="2 people; 8 are the least"):
        for person in sorted(real.faces.iterdir())[2:]:
            person.rename(tmp_path / person.name)
        people.RealPeople(real.faces)


def test_a_number_means_different_people_in_each_set_and_some_are_in_all(tmp_path):
    folders = people.mixture_folders(tmp_path)
    names = {name: sorted(path.name for path in folders[name].iterdir()) for name in folders}
    assert names["clean"] == names["masked"] == names["low"] == [f"person_{n:02d}" for n in range(6)]
    assert len(names["all"]) == 18 and "low_person_05" in names["all"]
    assert people.mixture_folders(tmp_path) == folders  # written once

    def first(name, person):
        return cv2.imread(str(sorted((folders[name] / f"person_{person:02d}").iterdir())[0])).astype(int)

    def gap(one, other):
        return np.abs(first("clean", one)[10:40] - first("low", other)[10:40]).mean()

    assert gap(0, 4) < min(gap(0, 0), gap(0, 1), gap(3, 3)) / 2  # shared person 0 is number 4 of the last set
    views = people.mixture_views()
    assert not np.array_equal(views["clean"][1], views["masked"][1])
    np.testing.assert_array_equal(views["clean"][0], views["low"][0])


def runs_of(tmp_path, real, part):
    return [shlex.split(command) for command in variants.unfinished(tmp_path, part, real)]


def test_commands_are_valid_and_arms_differ_in_their_terms_alone(tmp_path, real):
    with pytest.raises(ValueError, match=r"no finished run finetune-network_\*; it comes first"):
        variants.synthetic(tmp_path, SCRATCH, 1)
    assert len(runs_of(tmp_path, real, "network")) == 1
    finish(tmp_path / "finetune-network_01-01_0")
    parsed = {part: [get_args(words) for words in runs_of(tmp_path, real, part)] for part in PARTS}
    assert {part: len(each) for part, each in parsed.items()} == {
        "real": len(ARMS) * len(SEEDS),
        "network": 0,
        "synthetic": len(ARMS) * len(SEEDS),
        "demo": len(DEMO),
        "mixture": 7 * len(SEEDS),
    }
    for part in ("real", "synthetic"):
        assert len({(c.epochs, c.batch_size, c.data_root, c.degradation_side) for c in parsed[part]}) == 1
        assert [c.seed for c in parsed[part]] == sorted(c.seed for c in parsed[part])
        started = [c.start_from_model_statedict for c in parsed[part][: len(ARMS)]]
        assert started.count(None) == 1 and started.index(None) == list(ARMS).index(SCRATCH)
    assert parsed["demo"][0] == parsed["synthetic"][0]
    one, *_, curriculum, constant = parsed["mixture"][:7]
    assert [each.name for each in one.data_sets()] == list(people.SETS)
    assert curriculum.epoch_share == constant.epoch_share == 0.5 and constant.curriculum == "none"
    assert runs_of(tmp_path, None, "real") == []


def test_what_has_ended_is_passed_over_and_the_paired_cosine_chooses(tmp_path, real, capsys):
    finish(tmp_path / "finetune-real-both-1_01-01_0")
    assert main(["--list", "real", "--runs", str(tmp_path), "--faces", str(real.faces), "--weights", "w.pt"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(ARMS) * len(SEEDS) - 1 and "finetune-real-margin-1" in lines[0]
    run = variants.real(tmp_path, real, "margin + teacher", 1)
    assert variants.checkpoint(run, "margin + teacher").name == "last.ckpt"
    assert variants.checkpoint(run, PAIRED).name == "best.ckpt"
    assert variants.checkpoint(variants.real(tmp_path, real, PAIRED, 1), PAIRED) is None


def test_embeddings_are_kept_for_as_long_as_the_checkpoint_stays_the_same(tmp_path):
    path = write_checkpoint(tmp_path / "last.ckpt", embedding_size=8)
    images = {"hr": np.random.default_rng(0).integers(0, 255, (3, 112, 112, 3), dtype=np.uint8)}
    first = measures.embedded(path, "kept.npz", images)["hr"]
    np.testing.assert_allclose(np.linalg.norm(first, axis=1), 1, rtol=1e-5)
    assert np.array_equal(measures.embedded(path, "kept.npz", {})["hr"], first)
    write_checkpoint(path, embedding_size=16)
    assert measures.embedded(path, "kept.npz", images)["hr"].shape == (3, 16)


def invented(path, kept, images, color_space=None):
    """Return embeddings that tell people apart perfectly after fine-tuning, and by chance before."""
    num = len(next(iter(images.values())))
    rng = np.random.default_rng(len(str(path.parent.name)))
    by_chance = rng.normal(size=(num, 8)).astype(np.float32)
    perfect = np.repeat(np.eye(num // 2, dtype=np.float32), 2, axis=0)
    rows = perfect if "both" in str(path) or "mixture-mixture" in str(path) else by_chance
    return {name: rows / np.linalg.norm(rows, axis=1, keepdims=True) for name in images}


def refused(words, match, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(words)
    assert match in capsys.readouterr().err


def test_the_demo_and_the_study_write_their_tables(tmp_path, real, monkeypatch, capsys):
    monkeypatch.setattr(measures, "embedded", invented)
    runs = ["--runs", str(tmp_path)]
    refused(["--demo", *runs], "make finetune-demo trains them", capsys)
    refused(["--faces", "x", *runs], "--faces and --weights belong together", capsys)
    docs = page(tmp_path / "page.md", BLOCKS), page(tmp_path / "mixtures.md", MIXED)
    words = [*runs, "--docs", str(docs[0]), "--mixtures", str(docs[1])]
    refused(words, "make finetune-study trains them", capsys)

    for name in ("finetune-network", *(f"finetune-synthetic-{ARMS[arm][0]}-1" for arm in DEMO)):
        finish(tmp_path / f"{name}_01-01_0")
    assert main(["--demo", *runs]) == 0
    assert (tmp_path / "finetune-demo/tables.md").read_text().rstrip() in capsys.readouterr().out
    assert (tmp_path / "finetune-demo/auc.png").stat().st_size > 3000
    told = json.loads((tmp_path / "finetune-demo/comparison.json").read_text())
    assert list(told) == [report.BEFORE, *DEMO] and told[DEMO[0]]["rank-1 16"]["estimate"] == 1

    for name in ("finetune-real-both-1", "finetune-real-both-2", "mixture-mixture-1", "mixture-naive-1"):
        finish(tmp_path / f"{name}_01-01_0")
    assert main([*words, "--faces", str(real.faces), "--weights", str(real.weights)]) == 0
    text, mixtures = (path.read_text() for path in docs)
    assert "| margin + teacher | 2 | 100.0 [100.0, 100.0] |" in text and "| met |" in text
    assert "| from scratch | 1 |" in text and "margin head" not in text
    assert "one model minus one label space" in mixtures and "specialists" not in mixtures
    for seed in (1, 2):
        for name in people.SETS:
            finish(tmp_path / f"mixture-{name}-{seed}_01-01_0")
    assert main(words) == 0
    assert "| specialists | 2 |" in docs[1].read_text() and "one model minus specialists" in docs[1].read_text()
    assert "| margin + teacher | 2 |" in docs[0].read_text()  # what was not measured stays
    assert list(json.loads((tmp_path / "finetuning.json").read_text())) == ["synthetic", "mixture"]
