"""The people held out for validation: a run goes on with those that it began with, and is evaluated on them."""

import shutil

import pytest
import torch
from short_runs import SMALL, fit, write_faces

from cli import training
from config import Config
from data import FaceDataModule
from engine.checkpoint_file import AtomicCheckpointIO

SHARE = {"val_identities": 0.25, "batch_size": 8}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("held_out")


@pytest.fixture(scope="module")
def faces(folder):
    return str(write_faces(folder / "faces", identities=16, pairs=0))


@pytest.fixture(autouse=True)
def in_own_folder(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("MASKWISE_CACHE", str(folder / "cache"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def run_before(faces, folder):
    """Return the folder of a run from before people were divided by their images, and its data."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MASKWISE_CACHE", str(folder / "cache"))
        patch.setattr(FaceDataModule.__init__, "__defaults__", (1, "random"))
        _, datamodule, _ = fit(folder / "run", data_root=faces, **SHARE)
    return folder / "run", datamodule


@pytest.fixture
def earlier(run_before, tmp_path):
    """Return a copy of that run's checkpoint, which states no division, and the data."""
    folder, datamodule = run_before
    path = shutil.copytree(folder, tmp_path / "run") / "last.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    assert "division" not in checkpoint["hyper_parameters"]
    checkpoint["hyper_parameters"]["identities"] = datamodule.identities
    AtomicCheckpointIO().save_checkpoint(checkpoint, path)
    return path, datamodule


def prepared(**options):
    session = training.prepare(Config(**{**SMALL, **options}), set(options), [])
    if session.lock is not None:
        session.lock.close()
    return session


def people(datamodule):
    return datamodule.train_dataset.class_names, datamodule.benchmarks[0].checksum()


def test_a_run_from_before_goes_on_with_the_people_that_it_held_out(earlier, faces):
    path, before = earlier
    new = FaceDataModule(Config(**SMALL, data_root=faces, val_identities=0.25))
    new.setup()
    assert people(new) != people(before) and new.num_classes == before.num_classes  # nothing else would tell
    session = prepared(resume_from_checkpoint=str(path))
    assert people(session.datamodule) == people(before)
    assert session.model.hparams["division"] == "random", "its next checkpoint says what this one does not"


def test_a_new_run_states_its_division_and_keeps_it(faces, tmp_path):
    begun = prepared(data_root=faces, **SHARE)
    assert begun.model.hparams["division"] == "stratified"
    assert training.run(begun) == 0
    resumed = prepared(resume_from_checkpoint=str(begun.folder / "last.ckpt"), epochs=2)
    assert people(resumed.datamodule) == people(begun.datamodule)
    assert resumed.model.hparams["division"] == "stratified"


def test_a_checkpoint_from_before_is_evaluated_on_the_people_that_it_held_out_else_warned_of(earlier, faces, capsys):
    path, before = earlier
    options = {"evaluate": True, "resume_from_checkpoint": str(path), "data_root": faces, **SHARE}
    assert people(prepared(**options).datamodule) == people(before)
    assert "the people held out here" not in capsys.readouterr().err
    assert people(prepared(**options, seed=7).datamodule) != people(before)
    assert "the people held out here are not those of its training" in capsys.readouterr().err


def test_a_division_that_no_run_makes_is_refused(earlier):
    path, _ = earlier
    checkpoint = torch.load(path, weights_only=True)
    checkpoint["hyper_parameters"]["division"] = "by size"
    AtomicCheckpointIO().save_checkpoint(checkpoint, path)
    with pytest.raises(ValueError, match=r"division: one of random, stratified expected"):
        prepared(resume_from_checkpoint=str(path))


def test_people_images_and_pairs_held_out_are_logged(faces, capsys):
    prepared(data_root=faces, **SHARE)
    expected = "4 of 16 people (25.0 %) with 16 of 64 images (25.0 %) are held out and validated as 'own': 48 pairs, 24"
    assert f"{expected} of them genuine" in capsys.readouterr().err
