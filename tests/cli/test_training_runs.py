"""Training, resuming and evaluating through the real command line."""

import csv
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from programs import ROOT, SMALL_RUN, program

import main_eval

METHODS = ("adaface", "qaconv", "combined")
SETS = ("lfw", "cfp_fp", "agedb_30", "calfw", "cplfw")


def metrics(folder):
    with (folder / "metrics.csv").open() as stream:
        return list(csv.DictReader(stream))


def test_a_run_leaves_everything_needed_to_read_and_repeat_it(trained):
    names = {entry.name for entry in trained.iterdir()}
    expected = "config.json command.txt environment.json metrics.csv run.log samples.png last.ckpt best.ckpt report"
    assert set(expected.split()) <= names
    assert json.loads((trained / "config.json").read_text())["arch"] == "ir_tiny"
    assert "--epochs 2" in (trained / "command.txt").read_text()
    report = {entry.name for entry in (trained / "report").iterdir()}
    assert {"results.json", "report.txt", "accuracy.png", "roc_lfw.png"} <= report
    assert not any(name.endswith(".tmp") for name in names)
    assert {entry.name for entry in (trained / "histograms").iterdir()} == {"step_6.png", "step_12.png"}
    assert "wandb" not in names  # off by default


def test_metrics_hold_every_step_once_and_every_documented_key(trained):
    rows = metrics(trained)
    steps = [int(row["step"]) for row in rows]
    assert steps == list(range(1, 13))  # 12 identities x 8 images in batches of 16, twice
    validated = [row for row in rows if row["val_acc"]]
    assert [int(row["step"]) for row in validated] == [6, 12]
    keys = {"val_acc", "val_adaface_acc", "val_qaconv_acc", "val_combined_acc", "test_acc", "test_combined_acc"}
    keys |= {f"{name}_{cond}_{method}_acc" for name in SETS for cond in ("clean", "occluded") for method in METHODS}
    keys |= {"test_lfw_occluded_combined_acc", "train_head_loss", "train_pairwise_loss", "train_occlusion_loss"}
    keys |= {"lr", "grad_norm", "map_grad/head", "map_grad/pairwise", "map_norm", "epoch", "skipped_steps"}
    assert keys <= set(rows[0])
    last = validated[-1]
    mean = np.mean([float(last[f"{name}_clean_combined_acc"]) for name in SETS])
    assert float(last["val_acc"]) == float(last["val_combined_acc"]) == pytest.approx(mean)


def test_a_synthetic_report_says_so_when_the_embedded_faces_are_used(trained):
    results = json.loads((trained / "report" / "results.json").read_text())
    assert results["missing"] == []
    assert results["protocol"]["head"] == "adaface"
    assert set(results["benchmarks"]) == set(SETS)
    assert "over identities" in results["protocol"]["interval_method"]
    assert all(entry["checksum"].startswith("sha256:") for entry in results["benchmarks"].values())


@pytest.mark.evaluation_flag("data_path")
@pytest.mark.parametrize("occlude", ["none", "one"])
def test_a_checkpoint_is_evaluated_on_a_folder_of_identities(trained, faces, tmp_path, occlude, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "200")
    argv = ["--model-path", trained / "last.ckpt", "--data_path", faces / "train", "--output-dir", tmp_path / "out"]
    assert main_eval.main([*map(str, argv), "--occlude", occlude, "--gpus", "0"]) == 0
    shown = capsys.readouterr().out
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    conditions = results["benchmarks"]["train"]["conditions"]
    assert list(conditions) == (["clean"] if occlude == "none" else ["clean", "occluded"])
    for methods in conditions.values():
        assert tuple(methods) == METHODS
        entry = methods["combined"]
        assert (entry["num_genuine"], entry["num_impostor"]) == (12 * 28, 96 * 95 // 2 - 12 * 28)
        assert entry["tar_at_far"]["0.001"]["tar"] is not None
        assert list(entry["tar_at_far"]) == ["0.1", "0.01", "0.001"]  # 4,224 impostor pairs
        assert 0 < entry["balanced_accuracy"] < entry["accuracy"] and 0 < entry["eer"] < 0.5
        found = [entry["identification"] for entry in methods.values()]
        assert {(entry["num_probes"], entry["num_strangers"]) for entry in found} == {(96, 0)}
        assert all(0 < entry["rank_accuracy"]["1"] <= entry["rank_accuracy"]["5"] for entry in found)
    assert "checkpoint, by what is visible: 96 images of 12 training people" in results["protocol"]["fusion_source"]
    assert "over identities" in results["protocol"]["interval_method"]
    mix = '336 genuine and 4,224 impostor pairs; always answering "different" already gets 92.63 %'
    assert f"train: {mix}" in shown
    with np.load(tmp_path / "out" / "scores.npz") as saved:
        assert (saved["first"] < saved["second"]).all()
        assert len(saved["clean_qaconv"]) == 96 * 95 // 2
    assert results["protocol"]["matched"] == "all pairs"
    assert "aligned" in results["protocol"]["alignment"] and results["protocol"]["left_out"] == "no file"
    assert "train, clean, identification: 96 images searched among all others" in shown


@pytest.mark.evaluation_flag("shortlist")
@pytest.mark.slow
def test_a_shortlist_and_compact_maps_on_disk_are_stated_in_the_report(trained, faces, tmp_path):
    argv = ["--model-path", trained / "last.ckpt", "--data-path", faces / "train", "--gpus", "0"]
    (tmp_path / "maps").mkdir()
    scores = {}
    for name, options in {
        "all": ["--map-dtype", "float32"],
        "whole": ["--shortlist", "95", "--map-dtype", "float32"],
        "some": ["--shortlist", "4", "--map-dtype", "int8", "--map-dir", tmp_path / "maps", "--occlude", "one"],
    }.items():
        done = program("main_eval.py", *argv, *options, "--output-dir", tmp_path / name, cwd=tmp_path)
        with np.load(tmp_path / name / "scores.npz") as saved:
            scores[name] = dict(saved)
    np.testing.assert_allclose(scores["whole"]["clean_qaconv"], scores["all"]["clean_qaconv"], atol=1e-4)
    assert not list((tmp_path / "maps").iterdir())
    protocol = json.loads((tmp_path / "some" / "results.json").read_text())["protocol"]
    assert (protocol["shortlist"], protocol["map_dtype"]) == (4, "int8")
    for condition in ("clean", "occluded"):
        values, matched = scores["some"][f"{condition}_qaconv"], scores["some"][f"{condition}_matched"]
        assert 96 * 4 / 2 <= matched.sum() <= 96 * 4
        assert protocol["matched"][condition] == f"{matched.sum()} of 4,560 pairs" in done.stdout
        assert (values[~matched] == values[matched].min()).all()
    matched = scores["some"]["clean_matched"]
    np.testing.assert_allclose(
        scores["some"]["clean_qaconv"][matched], scores["all"]["clean_qaconv"][matched], atol=0.1
    )


@pytest.mark.evaluation_flag("model_path", "output_dir", "pairs")
def test_a_list_of_pairs_is_scored_as_given(trained, faces, tmp_path):
    names = sorted(entry.name for entry in (faces / "train").iterdir())
    images = {name: sorted(entry.name for entry in (faces / "train" / name).iterdir()) for name in names}
    lines = ["first,second,label"]
    for name, other in zip(names, names[1:] + names[:1], strict=True):
        lines.append(f"{name}/{images[name][0]},{name}/{images[name][1]},1")
        lines.append(f"{name}/{images[name][0]},{other}/{images[other][1]},0")
    (tmp_path / "pairs.csv").write_text("\n".join(lines))
    argv = ["--model_path", trained / "best.ckpt", "--data-path", faces / "train", "--pairs", tmp_path / "pairs.csv"]
    assert main_eval.main([*map(str, argv), "--output_dir", str(tmp_path / "out"), "--gpus", "0"]) == 0
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    entry = results["benchmarks"]["train"]["conditions"]["clean"]["combined"]
    assert (entry["num_genuine"], entry["num_impostor"]) == (12, 12)


@pytest.mark.flag("resume_from_checkpoint")
@pytest.mark.slow
def test_a_run_killed_inside_an_epoch_resumes_to_bit_identical_metrics(faces, tmp_path):
    flags = [*SMALL_RUN, "--data_root", str(faces), "--epochs", "3", "--num_workers", "1"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir(), killed.mkdir()
    program("main.py", *flags, cwd=whole)
    _kill_after_step(9, [sys.executable, str(ROOT / "main.py"), *flags], killed)
    (folder,) = (killed / "experiments").iterdir()
    assert 0 < len(metrics(folder)) < 18
    program("main.py", "--resume_from_checkpoint", folder / "last.ckpt", cwd=killed)
    (reference,) = (whole / "experiments").iterdir()
    assert metrics(folder) == metrics(reference)
    assert len((folder / "command.txt").read_text().splitlines()) == 2


def _kill_after_step(step, command, cwd):
    """Start a run and send it SIGKILL once metrics.csv shows a step of the second epoch."""
    with subprocess.Popen(
        command, cwd=cwd, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL, start_new_session=True,
    ) as process:  # fmt: skip
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and process.poll() is None:
            files = list(cwd.glob("experiments/*/metrics.csv"))
            if files and any(int(row["step"]) >= step for row in metrics(files[0].parent)):
                break
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL, "the run ended before it could be killed"


@pytest.mark.flag("evaluate")
@pytest.mark.slow
def test_two_ranks_score_every_pair_once_and_report_the_numbers_of_one_process(trained, faces, tmp_path):
    flags = ["--evaluate", "--resume_from_checkpoint", trained / "last.ckpt", "--data_root", faces, "--gpus", "0"]
    flags += ["--batch_size", "16", "--num_workers", "0"]
    reports = []
    for ranks in (1, 2):
        cwd = tmp_path / str(ranks)
        cwd.mkdir()
        program("main.py", *flags, "--num_processes", ranks, cwd=cwd)
        (folder,) = (cwd / "experiments").iterdir()
        reports.append(json.loads((folder / "report" / "results.json").read_text()))
    one, two = (report["benchmarks"] for report in reports)
    for name in SETS:
        for condition, methods in one[name]["conditions"].items():
            for method, entry in methods.items():
                other = two[name]["conditions"][condition][method]
                assert other["fold_accuracy"] == entry["fold_accuracy"]
                assert other["auc"] == pytest.approx(entry["auc"], abs=1e-9)


@pytest.mark.slow
def test_two_ranks_train_and_write_one_run_folder(faces, tmp_path):
    program("main.py", *SMALL_RUN, "--data_root", faces, "--epochs", "1", "--num_processes", "2", cwd=tmp_path)
    (folder,) = (tmp_path / "experiments").iterdir()
    assert [int(row["step"]) for row in metrics(folder)] == list(range(1, 7))
    assert (folder / "last.ckpt").exists()
