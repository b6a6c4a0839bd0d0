"""Comparing two evaluations: known answers, and one line for what cannot be compared."""

import json

import numpy as np
import pytest
from programs import program, refusal

from cli.compare import main
from evaluation import auc, verification

NUM_PAIRS = 240


@pytest.fixture
def pairs():
    rng = np.random.default_rng(0)
    issame = np.arange(NUM_PAIRS) % 2 == 0
    first = rng.integers(40, size=NUM_PAIRS)
    second = np.where(issame, first + 40, 40 + (first + 1 + rng.integers(38, size=NUM_PAIRS)) % 40)
    paths = [f"/data/p{place % 40}/{place}.png" for place in range(80)]
    return {"paths": np.array(paths), "first": first, "second": second, "issame": issame}


def scored(pairs, noise, seed, **arrays):
    rng = np.random.default_rng(seed)
    scores = pairs["issame"] + noise * rng.normal(size=NUM_PAIRS)
    return pairs | {"clean_adaface": scores.astype(np.float32)} | arrays


@pytest.fixture
def evaluations(tmp_path, pairs):
    for name, noise in (("good", 0.3), ("bad", 1.0)):
        (tmp_path / name).mkdir()
        np.savez(tmp_path / name / "scores.npz", **scored(pairs, noise, len(name)))
    return tmp_path


def test_the_better_of_two_evaluations_is_told_with_interval_and_p_value(evaluations, capsys):
    good, bad, output = evaluations / "good", evaluations / "bad", evaluations / "out.json"
    assert main([str(good), str(bad), "--resamples", "200", "--output", str(output)]) == 0
    rows = {row["measure"]: row for row in json.loads(output.read_text())["rows"]}
    assert list(rows) == ["accuracy", "AUC", "TAR@FAR 0.1", "TAR@FAR 0.01"]
    saved = [np.load(folder / "scores.npz") for folder in (good, bad)]
    assert rows["AUC"]["a"] == pytest.approx(auc(saved[0]["clean_adaface"], saved[0]["issame"]))
    assert rows["accuracy"]["b"] == pytest.approx(
        verification(saved[1]["clean_adaface"], saved[1]["issame"]).accuracy, abs=1e-12
    )
    assert rows["AUC"]["lower"] > 0 and rows["AUC"]["p_value"] == pytest.approx(2 / 201)
    text = capsys.readouterr().out
    assert "TAR@FAR 0.01" in text and "over identities, 200 resamples, seed 42" in text


def test_fars_seed_and_resamples_are_obeyed(evaluations):
    def rows(*flags):
        output = evaluations / "out.json"
        assert main([str(evaluations / "good"), str(evaluations / "bad"), "--output", str(output), *flags]) == 0
        return json.loads(output.read_text())["rows"]

    plain = rows("--resamples", "50")
    assert rows("--resamples", "50") == plain
    assert [row["lower"] for row in rows("--resamples", "50", "--seed", "1")] != [row["lower"] for row in plain]
    assert "70 resamples" in rows("--resamples", "70")[0]["method_of_interval"]
    *_, unresolved = rows("--resamples", "20", "--fars", "0.5,1e-4")
    assert unresolved["measure"] == "TAR@FAR 0.0001" and unresolved["a"] is unresolved["p_value"] is None


def test_an_evaluation_does_not_differ_from_itself(evaluations):
    output = evaluations / "out.json"
    good = str(evaluations / "good")
    assert main([good, f"{good}/scores.npz", "--resamples", "30", "--output", str(output)]) == 0
    assert {(row["difference"], row["p_value"]) for row in json.loads(output.read_text())["rows"]} == {(0.0, 1.0)}


def test_sets_are_compared_by_name(evaluations, pairs, capsys):
    for folder in ("good", "bad"):
        for name in ("lfw", f"only_{folder}"):
            np.savez(evaluations / folder / f"scores_{name}.npz", **scored(pairs, 0.5, len(folder + name)))
        (evaluations / folder / "scores.npz").unlink()
    assert main([str(evaluations / "good"), str(evaluations / "bad"), "--resamples", "20"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("lfw ") for line in lines) and not any(line.startswith("only") for line in lines)


def test_as_a_program(evaluations):
    done = program("main.py", "compare", "good", "bad", "--resamples", "20", cwd=evaluations)
    assert "95 % interval" in done.stdout and not done.stderr


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda p: {"issame": ~p["issame"]}, "pair 0 is another one (issame)"),
        (lambda p: {"second": np.where(np.arange(NUM_PAIRS) == 7, 0, p["second"])}, "pair 7 is another one (second)"),
        (lambda p: {"paths": p["paths"][::-1]}, "name other images"),
        (lambda p: {"clean_adaface": np.zeros(3, np.float32)}, "clean_adaface does not hold one number a pair"),
        (lambda p: {"folds": np.zeros(3, np.int64)}, "folds must be integers"),
        (lambda p: {"issame": p["issame"].astype(int)}, "no scores of pairs in it"),
        (lambda p: {"paths": np.array([object()])}, "no file of scores that can be read"),
    ],
)
def test_what_does_not_fit_is_one_line(evaluations, pairs, change, expected, capsys):
    np.savez(evaluations / "bad" / "scores.npz", **scored(pairs, 1, 1) | change(pairs))
    line = refusal(capsys, main, evaluations / "good", evaluations / "bad", "--output", evaluations / "out.json")
    assert expected in line and not (evaluations / "out.json").exists()


def test_missing_and_damaged_files_are_one_line(evaluations, pairs, tmp_path, capsys):
    good = evaluations / "good"
    assert "does not exist" in refusal(capsys, main, good, tmp_path / "none")
    (tmp_path / "empty").mkdir()
    assert "holds no scores*.npz" in refusal(capsys, main, good, tmp_path / "empty")
    (tmp_path / "text.npz").write_text("no archive")
    assert "no file of scores that can be read" in refusal(capsys, main, good, tmp_path / "text.npz")
    other = {name: value for name, value in scored(pairs, 1, 1).items() if name != "clean_adaface"}
    np.savez(tmp_path / "other.npz", **other, occluded_qaconv=np.zeros(NUM_PAIRS, np.float32))
    assert "no score in common" in refusal(capsys, main, good, tmp_path / "other.npz")
    np.savez(tmp_path / "few.npz", **{name: value[:9] for name, value in scored(pairs, 1, 1).items()})
    assert "240 pairs" in refusal(capsys, main, good, tmp_path / "few.npz")
