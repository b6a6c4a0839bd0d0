"""What stands beside the checkpoints of a run that goes on: repaired, or begun anew with a line, whatever it is."""

import json
import os
import shutil
from dataclasses import replace

import pytest
from short_runs import SHOWN, SMALL, fit, metrics

from cli import training
from cli.runs import beginning
from config import Config
from engine import runs

NAMES = runs.SIDE_FILES
CONTENTS = {
    "binary": bytes(range(256)) * 20,
    "empty": b"",
    "half a line": b'{"step": 1, "cau',
    "another kind": b'{"a": [1, 2]}\n',
    "a number": b"7\n",
    "control characters": b"\x1b[2Jstep,epoch\n\x1b[2J,1\n",
    "no numbers": b"step,epoch\none,two\n",
    "huge numbers": b"step,epoch\n" + b"9" * 5000 + b",0\n",
    "no columns": b"a,b\n1,2\n",
    "columns twice": b"step,step\n1,2\n",
    "deep": b"[" * 100_000,
    "nan": b"[NaN]",
    "nul": b"step\0,epoch\n1,2\n",
}
KINDS = ("folder", "pipe", "link out", "dangling link", "unreadable")


@pytest.fixture(scope="module")
def stopped(noise_faces, tmp_path_factory):
    """Folder of a run with the checkpoint of a step within its only epoch as last.ckpt."""
    folder = tmp_path_factory.mktemp("stopped")
    fit(folder, data_root=noise_faces, batch_size=8, checkpoint_every_n_steps=1)
    (folder / "last.ckpt.previous").replace(folder / "last.ckpt")
    return folder


def resume(stopped, folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    given = Config(**{**SMALL, "resume_from_checkpoint": str(folder / "last.ckpt")})
    return training.prepare(replace(given, log_every_n_steps=1), frozenset(), ["x"])


def place(path, kind):
    match kind:
        case "folder":
            path.mkdir()
            (path / "inside").write_text("kept")
        case "pipe":
            os.mkfifo(path)
        case "link out":
            (path.parent.parent / "outside").write_text("kept")
            path.symlink_to(path.parent.parent / "outside")
        case "dangling link":
            path.symlink_to(path.parent.parent / "outside")
        case "unreadable":
            path.write_text("x")
            path.chmod(0)
        case _:
            path.write_bytes(CONTENTS[kind])


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_plain_file_makes_room(stopped, tmp_path, monkeypatch, kind, caplog):
    if kind == "unreadable" and os.geteuid() == 0:
        pytest.skip("root reads every file")
    folder = tmp_path / "run"
    shutil.copytree(stopped, folder)
    for name in NAMES:
        (folder / name).unlink(missing_ok=True)
        place(folder / name, kind)
    resume(stopped, folder, monkeypatch)
    for name in ("config.json", "environment.json", "command.txt", "run.log"):
        assert (folder / name).is_file() and not (folder / name).is_symlink()
    assert all(os.path.lexists(folder / f"{name}.unusable") for name in NAMES)
    assert (folder / "run.log").read_text().count("a new one is begun") == len(NAMES)
    if kind == "link out":
        assert (tmp_path / "outside").read_text() == "kept"
    assert not (kind == "dangling link" and (tmp_path / "outside").exists())


@pytest.mark.parametrize("kind", ["pipe", "dangling link", "binary"])
def test_what_is_no_folder_makes_room(stopped, tmp_path, monkeypatch, kind):
    folder = tmp_path / "run"
    shutil.copytree(stopped, folder)
    for name in runs.SIDE_FOLDERS:
        shutil.rmtree(folder / name, ignore_errors=True)
        place(folder / name, kind)
    resume(stopped, folder, monkeypatch)
    assert all(os.path.lexists(folder / f"{name}.unusable") for name in runs.SIDE_FOLDERS)


@pytest.mark.parametrize("kind", CONTENTS)
def test_a_run_goes_on_beside_files_with_any_content(stopped, tmp_path, monkeypatch, kind):
    folder = tmp_path / "run"
    shutil.copytree(stopped, folder)
    for name in NAMES:
        place(folder / name, kind)
    session = resume(stopped, folder, monkeypatch)
    callbacks = session.trainer.callbacks
    session.trainer.callbacks = [callback for callback in callbacks if "Sheet" not in type(callback).__name__]
    session.trainer.fit(
        session.model, datamodule=session.datamodule, ckpt_path=str(folder / "last.ckpt"), weights_only=True
    )
    assert isinstance(json.loads((folder / "environment.json").read_text()), list)
    assert json.loads((folder / "config.json").read_text())["arch"] == "ir_tiny"
    assert metrics(folder)[-1]["step"] == 4
    assert not runs.only_evaluated(folder)


@pytest.mark.parametrize("kind", [*CONTENTS, "folder", "pipe"])
def test_looking_for_the_newest_run_reads_any_config(tmp_path, kind):
    place(tmp_path / "config.json", kind)
    assert runs.only_evaluated(tmp_path) is False


def test_rows_and_incidents_that_are_whole_are_kept(stopped, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    shutil.copytree(stopped, folder)
    before = (folder / "metrics.csv").read_text().splitlines()
    lines = ['{"step": 1, "cause": "c", "loss": 1.0, "indices": []}', "broken", '{"step": 99}', '{"step": 2}']
    (folder / "incidents.jsonl").write_text("\n".join(lines) + "\n")
    resume(stopped, folder, monkeypatch)
    assert (folder / "metrics.csv").read_text().splitlines() == before[: len(before) - 1]
    assert (folder / "incidents.jsonl").read_text().splitlines() == [lines[0], lines[3]]
    assert (folder / "incidents.jsonl.unusable").read_text().splitlines() == lines


def run_whole(noise_faces, explicit=frozenset(), **options):
    """Run a program's training, test and report, and return its folder."""
    given = Config(**{**SMALL, "data_root": noise_faces, "batch_size": 8, **options})
    session = training.prepare(given, explicit, ["x"])
    session.trainer.callbacks = [c for c in session.trainer.callbacks if not isinstance(c, SHOWN)]
    assert training.run(session) == 0
    session.lock.close()
    return session.folder


def test_a_finished_run_that_is_extended_ends_as_one_long_run(noise_faces, tmp_path, monkeypatch):
    """Its own test, of weights that are not the last any more, leaves no trace beside the steps."""
    monkeypatch.chdir(tmp_path)
    long = run_whole(noise_faces, prefix="long", epochs=2)
    short = run_whole(noise_faces, prefix="short")
    resumed = {"epochs", "resume_from_checkpoint"}
    run_whole(noise_faces, resumed, epochs=2, resume_from_checkpoint=str(short / "last.ckpt"))
    assert (short / "metrics.csv").read_bytes() == (long / "metrics.csv").read_bytes()
    results = [json.loads((folder / "report/results.json").read_text()) for folder in (long, short)]
    assert [result["protocol"].pop("run") for result in results] == [long.name, short.name]
    assert results[0] == results[1]


@pytest.mark.parametrize(("epochs", "said"), [(2, True), (3, False)])
def test_a_run_that_has_all_its_epochs_says_that_nothing_is_left_to_train(tmp_path, caplog, epochs, said):
    config = Config(resume_from_checkpoint=str(tmp_path / "last.ckpt"), epochs=epochs)
    caplog.set_level("INFO")
    beginning.run_folder(config, {"global_step": 0, "FaceDataModule": {"epoch": 2}})
    assert ("nothing is left to train: its 2 epochs are done; --epochs takes more" in caplog.text) == said
