"""--resume_from_checkpoint auto: the newest whole checkpoint of the newest run, whatever happened to the files."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from broken_runs import FLAGS, assert_same, finish, outcome, output, run_folder, start
from short_runs import SMALL, fit, write_faces

from cli import training
from cli.checkpoints import DamagedCheckpointError, newest_checkpoint, read_checkpoint
from cli.runs import beginning
from config import Config
from data import FaceDataModule
from engine import runs
from engine.checkpoint_file import AtomicCheckpointIO
from options.names import ONLY_DATASET

AUTO = Config(**{**SMALL, "resume_from_checkpoint": "auto", "prefix": "mine"})


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with the checkpoints of steps 1 to 4 of a small run."""
    faces = write_faces(tmp_path_factory.mktemp("faces"))
    folder = tmp_path_factory.mktemp("trained")
    fit(folder, data_root=str(faces), batch_size=8, checkpoint_every_n_steps=1)
    return folder


def copy_of(trained, folder):
    folder.mkdir(parents=True, exist_ok=True)
    for path in (*trained.glob("*.ckpt"), trained / "last.ckpt.previous"):
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def warnings(caplog):
    return [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]


def spoil(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("stride", [pytest.param(1, marks=pytest.mark.slow), 10])
def test_a_checkpoint_cut_off_at_any_4_kb_boundary_is_named_as_damaged(trained, tmp_path, stride):
    content = (trained / "last.ckpt").read_bytes()
    path = tmp_path / "last.ckpt"
    path.write_bytes(content)
    assert read_checkpoint(path)["global_step"] == 4
    places = [*range(0, len(content), 4096 * stride), len(content) - 1, len(content) - 71, len(content) - 73]
    assert len(places) > 20
    for place in places:
        path.write_bytes(content[:place])
        with pytest.raises(DamagedCheckpointError, match=r"last\.ckpt: damaged or not a checkpoint"):
            read_checkpoint(path)


def test_the_newest_whole_checkpoint_is_taken_and_each_damaged_one_named(trained, tmp_path, caplog):
    folder = copy_of(trained, tmp_path / "run")
    steps = {path.name: read_checkpoint(path)["global_step"] for path in folder.iterdir()}
    assert steps == {"last.ckpt": 4, "last.ckpt.previous": 3, "best.ckpt": 4}
    now = 2_000_000_000
    for age, name in enumerate(("last.ckpt", "best.ckpt", "last.ckpt.previous")):
        os.utime(folder / name, (now + age, now + age))  # times mean nothing
    assert newest_checkpoint(folder) == folder / "last.ckpt" and warnings(caplog) == []
    spoil(folder / "last.ckpt")
    assert newest_checkpoint(folder) == folder / "last.ckpt.previous"
    (line,) = warnings(caplog)
    assert "run/last.ckpt: damaged" in line and "its checksum differs" in line
    (folder / "last.ckpt.previous").write_bytes(b"")
    (folder / "epoch_000.ckpt").write_bytes((trained / "last.ckpt.previous").read_bytes())
    assert newest_checkpoint(folder) == folder / "epoch_000.ckpt"
    (folder / "epoch_000.ckpt").unlink()
    assert newest_checkpoint(folder) == folder / "best.ckpt", "the last resort"
    (folder / "best.ckpt").unlink()
    assert newest_checkpoint(folder) is None


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path / "experiments"


def test_the_newest_run_of_the_prefix_that_trained_is_taken(trained, root):
    old, new, evaluated = (copy_of(trained, runs.create_run_folder(root, "mine")) for _ in range(3))
    copy_of(trained, runs.create_run_folder(root, "mine_too"))
    runs.write_json(evaluated / "config.json", {"evaluate": True})
    runs.write_json(new / "config.json", {"evaluate": False})
    assert old != new
    found = beginning.find_checkpoint(replace(AUTO, start_from_model_statedict="weights.pt"))
    assert found.resume_from_checkpoint == str(new.relative_to(root.parent) / "last.ckpt")
    assert found.start_from_model_statedict is None, "they are where the run started, not where it is"


@pytest.mark.parametrize("folder", ["no run", "no checkpoint", "damaged ones"])
def test_without_a_whole_checkpoint_a_new_run_starts_and_a_line_says_so(trained, root, caplog, folder):
    if folder != "no run":
        copy_of(trained, runs.create_run_folder(root, "mine"))  # an older run is not this one
        new = runs.create_run_folder(root, "mine")
    if folder == "damaged ones":
        for path in copy_of(trained, new).iterdir():
            spoil(path)
    found = beginning.find_checkpoint(replace(AUTO, start_from_model_statedict="weights.pt"))
    assert (found.resume_from_checkpoint, found.start_from_model_statedict) == (None, "weights.pt")
    assert "a new run starts" in warnings(caplog)[-1]
    assert len(warnings(caplog)) == (4 if folder == "damaged ones" else 1)


def test_there_must_be_something_to_evaluate(root):
    with pytest.raises(ValueError, match="no checkpoint to evaluate"):
        beginning.find_checkpoint(replace(AUTO, evaluate=True))


def test_a_damaged_checkpoint_that_was_named_is_refused_with_the_way_out(trained, root):
    path = copy_of(trained, root / "mine_01-01_0") / "last.ckpt"
    spoil(path)
    with pytest.raises(ValueError, match=r"last\.ckpt: damaged .* --resume_from_checkpoint auto takes the newest"):
        training.prepare(replace(AUTO, resume_from_checkpoint=str(path)), frozenset(), [])


def test_requeue_without_auto_is_warned_of(root, capsys):
    config = Config(**{**SMALL, "requeue": True, "resume_from_checkpoint": "nowhere.ckpt"})
    with pytest.raises(FileNotFoundError, match="nowhere"):
        training.prepare(config, frozenset(), [])
    assert "--requeue starts the same command again" in capsys.readouterr().err


# ---------------------------------------------------------------- runs on other data


@pytest.fixture
def other_data(trained, root, tmp_path):
    """Return a function that makes a run folder of `trained` with identities of other names."""

    def make(identities):
        checkpoint = torch.load(trained / "last.ckpt", weights_only=True)
        checkpoint["hyper_parameters"]["identities"] = {ONLY_DATASET: identities}
        folder = runs.create_run_folder(root, "mine")
        AtomicCheckpointIO().save_checkpoint(checkpoint, folder / "last.ckpt")
        return folder

    return make


def prepared(faces, caplog, **options):
    """Return the session of `auto` on these faces, and what it has logged."""
    given = replace(AUTO, **{"data_root": str(faces), "batch_size": 8, **options})
    session = training.prepare(given, {"data_root", "resume_from_checkpoint"}, [])
    runs_log = session.folder / "run.log"
    return session, caplog.text + runs_log.read_text()


@pytest.fixture(scope="module")
def faces(trained):
    return Path(torch.load(trained / "last.ckpt", weights_only=True)["hyper_parameters"]["config"]["data_root"])


@pytest.mark.parametrize("difference", ["more identities", "other names", "place"])
def test_auto_passes_over_a_run_on_other_data_and_starts_a_new_one(
    difference, trained, faces, root, tmp_path, capsys, caplog, monkeypatch, other_data
):
    here = faces
    if difference == "more identities":
        copy_of(trained, folder := runs.create_run_folder(root, "mine"))
        here = write_faces(tmp_path / "other", identities=9)
    elif difference == "other names":
        folder = other_data(identities="of others")
    else:
        copy_of(trained, folder := runs.create_run_folder(root, "mine"))

        def refuse(*args):
            raise ValueError("the place is outside")

        monkeypatch.setattr(FaceDataModule, "check_place", refuse)
    before = {path: path.read_bytes() for path in folder.iterdir() if path.suffix == ".ckpt"}
    session, log = prepared(here, caplog)
    log += capsys.readouterr().err
    (line,) = {line.partition(" WARNING ")[2] for line in log.splitlines() if "passes over this run" in line} - {""}
    assert f"{folder.name}/last.ckpt: " in line
    assert session.folder != folder and session.config.resume_from_checkpoint is None
    assert {path: path.read_bytes() for path in before} == before
    with runs.lock_folder(folder):
        """Another process may go on with it."""


def test_auto_goes_on_with_the_newest_run_on_these_data(trained, faces, root, capsys, caplog, other_data):
    mine = copy_of(trained, runs.create_run_folder(root, "mine"))
    for name in ("others", "still others"):
        other_data(identities=name)
    session, _ = prepared(faces, caplog)
    assert session.folder.samefile(mine)
    assert capsys.readouterr().err.count("passes over this run") == 2


def test_a_named_checkpoint_of_other_names_is_warned_of_and_one_of_another_number_refused(
    faces, tmp_path, caplog, capsys, other_data
):
    path = str(other_data(identities="of others") / "last.ckpt")
    session, _ = prepared(faces, caplog, resume_from_checkpoint=path)
    assert session.folder.samefile(Path(path).parent)
    assert "last.ckpt: was trained on identities of other names or in another order" in capsys.readouterr().err
    more = write_faces(tmp_path / "other", identities=9)
    session.lock.close()
    with pytest.raises(ValueError, match=r"last\.ckpt: was trained on 8 identities, but the training data hold 9"):
        prepared(more, caplog, resume_from_checkpoint=path)


@pytest.mark.slow
def test_a_run_goes_on_from_the_checkpoint_before_a_damaged_one(tmp_path):
    faces = write_faces(tmp_path / "faces")
    argv = [*FLAGS, "--data_root", faces, "--epochs", "1"]
    for name in ("whole", "spoilt"):
        (tmp_path / name).mkdir()
        assert finish(start(argv, tmp_path / name)) == [0]
    folder = run_folder(tmp_path / "spoilt")
    spoil(folder / "last.ckpt")
    assert finish(start(argv, tmp_path / "spoilt")) == [0], output(tmp_path / "spoilt")
    assert f"going on from {folder.relative_to(tmp_path / 'spoilt')}/last.ckpt.previous" in output(tmp_path / "spoilt")
    assert_same(outcome(tmp_path / "spoilt"), outcome(tmp_path / "whole"))
