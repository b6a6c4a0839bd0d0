"""--override changes options of a run that goes on, and is kept from then on."""

import csv
import json
import shutil

import pytest
from broken_runs import finish, output, run_folder, start
from programs import SMALL_RUN
from short_runs import write_faces

import main


def refusal(capsys, *argv):
    """Return the one line on stderr with which main.py refuses argv."""
    with pytest.raises(SystemExit) as raised:
        main.main([str(word) for word in argv])
    assert raised.value.code == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if ": error: " in line]
    return line


def rows(folder, column="lr"):
    """Return {step: (epoch, value)} of the rows of metrics.csv that have one."""
    with (folder / "metrics.csv").open() as stream:
        return {int(r["step"]): (int(float(r["epoch"])), float(r[column])) for r in csv.DictReader(stream) if r[column]}


@pytest.fixture(scope="module")
def two_epochs(tmp_path_factory):
    """Run folder of two epochs with adamw and a rate of 0.001."""
    cwd = tmp_path_factory.mktemp("overrides")
    data = write_faces(cwd / "faces", pairs=6)
    argv = [*SMALL_RUN, "--data_root", data, "--epochs", "2", "--val_occlusion", "none", "--align", "no"]
    argv += ["--score_normalization", "none"]
    assert finish(start(argv, cwd)) == [0], output(cwd)
    return run_folder(cwd)


@pytest.fixture
def run(two_epochs, tmp_path, monkeypatch):
    """Copy of the run folder, to go on in."""
    monkeypatch.chdir(tmp_path)
    return shutil.copytree(two_epochs, tmp_path / "experiments" / two_epochs.name)


@pytest.mark.flag("override")
def test_an_overridden_rate_is_trained_with_recorded_and_kept(run):
    before = rows(run)
    words = ["--resume_from_checkpoint", str(run / "last.ckpt"), "--epochs", "3"]
    assert main.main([*words, "--override", "lr=0.0005,weight_decay=0.1", "--override", "lr_milestones=9,10"]) == 0
    after = rows(run)
    assert {step: after[step] for step in before} == before
    assert {rate for step, (_, rate) in after.items() if step not in before} == {0.0005}
    config = json.loads((run / "config.json").read_text())
    assert (config["lr"], config["weight_decay"], config["lr_milestones"]) == (0.0005, 0.1, [9, 10])
    assert "lr=0.0005" in (run / "command.txt").read_text()
    assert json.loads((run / "environment.json").read_text())[-1]["override"] == [
        "lr=0.0005", "weight_decay=0.1", "lr_milestones=9,10",
    ]  # fmt: skip
    assert "--override: lr is 0.0005 from here on; in the checkpoint it is 0.001" in (run / "run.log").read_text()
    assert main.main([*words[:2], "--epochs", "4"]) == 0
    final = rows(run)
    assert {rate for step, (_, rate) in final.items() if step not in before} == {0.0005}
    assert max(epoch for epoch, _ in final.values()) == 3
    assert json.loads((run / "config.json").read_text())["override"] == []


def test_an_overridden_batch_size_changes_the_steps_of_the_epochs_that_follow(run):
    old = rows(run)
    steps = sum(epoch == 0 for epoch, _ in old.values())
    words = ["--resume_from_checkpoint", str(run / "last.ckpt"), "--epochs", "4", "--override"]
    assert main.main([*words, "batch_size=8,lr_schedule=cosine"]) == 0
    new = rows(run)
    counts = [sum(epoch == number for epoch, _ in new.values()) for number in range(4)]
    assert counts == [steps, steps, 2 * steps, 2 * steps]
    rates = [rate for step, (_, rate) in sorted(new.items()) if step not in old]
    assert rates[0] == pytest.approx(0.001 * 0.5, rel=1e-6), "half a cosine after half of the epochs"
    assert rates == sorted(rates, reverse=True) and rates[-1] < 0.0001
    assert len(rows(run, "val_acc")) == 4


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("embedding_size=64", "would not fit"),
        ("arch=ir_18", "would not fit"),
        ("head=arcface", "would not fit"),
        ("qaconv_channels=8", "would not fit"),
        ("qaconv_loss_weight=0", "would not fit"),
        ("partial_fc_rate=0.5,optimizer=sgd", "state of the other one"),
        ("optimizer=sgd", "state of the other one"),
        ("seed=1", "order of the data"),
        ("sampler=graph", "place in the data"),
        ("check_mode=on", "other precision"),
        ("lr=0", "--lr must be in (0, inf)"),
        ("lr=nan", "--lr must be in"),
        ("lr=fast", "fast"),
        ("lr=", "--override lr="),
        ("batch_size=30", "divisible by 4"),
        ("batch_size=" + "9" * 400, "digits"),
        ("epcohs=3", "no option of this name"),
        ("lr", "expected name=value"),
        ("visibility_gradient=maybe", "on or off"),
        ("evaluate=on", "--evaluate itself"),
    ],
)
def test_what_cannot_be_overridden_is_refused_with_the_reason(words, reason, run, capsys):
    kept = {path.name: path.stat().st_mtime_ns for path in run.iterdir() if "lock" not in path.name}
    assert reason in refusal(capsys, "--resume_from_checkpoint", run / "last.ckpt", "--override", words)
    left = {path.name: path.stat().st_mtime_ns for path in run.iterdir() if "lock" not in path.name}
    assert left == kept


def test_a_conflicting_flag_points_to_override(run, capsys):
    line = refusal(capsys, "--resume_from_checkpoint", run / "last.ckpt", "--lr", "0.5")
    assert "leave the flag out, or change it with --override lr=0.5" in line


def test_an_override_without_a_checkpoint_is_refused(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "give the flags themselves" in refusal(capsys, *SMALL_RUN, "--override", "lr=0.1")


def test_the_batch_size_is_not_overridden_inside_an_epoch(run, capsys):
    words = ["--resume_from_checkpoint", str(run / "last.ckpt"), "--epochs", "3", "--checkpoint_every_n_steps", "1"]
    assert main.main(words) == 0
    words = ["--resume_from_checkpoint", run / "last.ckpt.previous", "--epochs", "3", "--override", "batch_size=8"]
    assert "lies inside an epoch" in refusal(capsys, *words)
