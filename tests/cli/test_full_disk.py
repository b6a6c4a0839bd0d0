"""A run whose disk fills up goes on, says so once for each file, and tells at the end."""

import logging

import pytest
import pytorch_lightning as pl
import torch
from broken_runs import FLAGS, assert_same, outcome, run_folder
from full_disk import full_disk
from short_runs import write_faces

import main
from engine import trainer as trainer_module
from engine.checkpoint_file import damage

FULL_AT = 3
FILES = ("last.ckpt", "last.ckpt.previous", "best.ckpt", "metrics.csv", "run.log", "histograms", "report")


class FillDisk(pl.Callback):
    """Fill the disk after a step, and make room after another one, if ever."""

    def __init__(self, room_at, full_at=FULL_AT):
        self.disk, self._room_at, self._full_at = full_disk(1000), room_at, full_at

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == self._full_at:
            self.disk.__enter__()
        if trainer.global_step == self._room_at:
            self.disk.__exit__(None, None, None)


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    return str(write_faces(tmp_path_factory.mktemp("faces")))


@pytest.fixture
def run(faces, tmp_path, monkeypatch):
    """Return a function that trains in a folder with a callback more and returns the exit code."""
    callbacks, handlers = trainer_module._callbacks, list(logging.getLogger().handlers)

    def train(name, *watchers, flags=()):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        monkeypatch.setattr(trainer_module, "_callbacks", lambda *args: [*watchers, *callbacks(*args)])
        try:
            return main.main([*FLAGS, "--data_root", faces, "--score_normalization", "none", *flags])
        finally:
            for handler in set(logging.getLogger().handlers) - set(handlers):
                logging.getLogger().removeHandler(handler)

    return train


def test_a_run_on_a_full_disk_trains_on_and_its_exit_code_tells(run, tmp_path, capsys):
    fill = FillDisk(room_at=None)
    try:
        assert run("full", fill) == 74
    finally:
        fill.disk.__exit__(None, None, None)
    folder = run_folder(tmp_path / "full")
    checkpoint = folder / "last.ckpt"
    assert damage(checkpoint) is None and torch.load(checkpoint, weights_only=True)["global_step"] == FULL_AT - 1
    assert damage(folder / "best.ckpt") is None
    assert (folder / "metrics.csv").read_text().endswith("\n")
    text = capsys.readouterr().err
    for name in FILES:
        said = text.count(f"{name} could not be written"), text.count(f"{name} is missing or old")
        assert said == ((0, 0) if name == "last.ckpt.previous" else (1, 1)), name
    assert "Traceback" not in text and "Logging error" not in text


@pytest.mark.slow
def test_a_disk_with_room_again_gets_everything(run, tmp_path, capsys):
    # No validation meanwhile: a best checkpoint that was lost comes back only if a later one is better.
    flags = ("--val_check_interval", "1.0")
    assert run("full", FillDisk(room_at=7, full_at=5), flags=flags) == 0
    text = capsys.readouterr().err
    for name in ("last.ckpt", "metrics.csv", "run.log"):
        assert text.count(f"{name} could not be written") == text.count(f"{name} can be written again") == 1
    assert run("whole", flags=flags) == 0
    assert_same(outcome(tmp_path / "full"), outcome(tmp_path / "whole"))
    log = (run_folder(tmp_path / "full") / "run.log").read_text()
    assert "could not be written" in log and "can be written again" in log
