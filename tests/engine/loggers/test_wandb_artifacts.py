"""Checkpoints go to W&B beside the training: tried again, kept until confirmed, and at no cost to the run."""

import threading
from types import SimpleNamespace

import pytest
from pytorch_lightning.loggers import WandbLogger

from engine.files import WriteFailures
from engine.loggers import wandb_artifacts
from engine.loggers.wandb_artifacts import WandbArtifacts
from engine.trainer import build_trainer
from options.engine import EngineOptions


class FakeRun:
    """A W&B run that answers uploads with what it is told: None is success, else what is raised."""

    id = "abc"

    def __init__(self, answers=(), offline=False):
        self.answers, self.offline = list(answers), offline
        self.uploads, self.present = [], []
        self.gate = threading.Event()
        self.gate.set()

    def log_artifact(self, artifact):
        name, path = artifact.files[0]
        self.uploads.append((artifact.name, name, open(path, "rb").read()))  # noqa: PTH123

        def wait(timeout):
            self.gate.wait(30)
            with open(path, "rb"):  # noqa: PTH123  # kept until this returns
                self.present.append(name)
            answer = self.answers.pop(0) if self.answers else None
            if answer is not None:
                raise answer

        return SimpleNamespace(wait=wait)


class FakeArtifact:
    def __init__(self, name, type):
        assert type == "model"
        self.name, self.files = name, []

    def add_file(self, path, name, policy, skip_cache):
        assert policy == "immutable" and skip_cache  # no copy in W&B's own folders
        self.files.append((name, path))


class FakeLogger(WandbLogger):
    def __init__(self, run):
        self.run = run

    @property
    def experiment(self):
        return self.run


@pytest.fixture(autouse=True)
def waits(monkeypatch):
    monkeypatch.setattr("wandb.Artifact", FakeArtifact)
    slept = []
    monkeypatch.setattr(wandb_artifacts.time, "sleep", slept.append)
    return slept


def train(folder, run, contents=(b"1", b"2"), loggers=None):
    """Run a training whose epochs end with last.ckpt, and the first with best.ckpt too."""
    callback = WandbArtifacts(folder, WriteFailures())
    trainer = SimpleNamespace(loggers=[FakeLogger(run)] if loggers is None else loggers)
    callback.on_train_start(trainer, None)
    for epoch, content in enumerate(contents):
        callback.on_train_epoch_start(trainer, None)
        for name in ("last.ckpt", "best.ckpt")[: 2 - epoch]:
            new = folder / "new"
            new.write_bytes(content)
            new.replace(folder / name)  # as checkpoints are written: another file
    callback.on_fit_end(trainer, None)


@pytest.mark.flag("wandb_artifacts")
def test_new_checkpoints_are_uploaded_and_their_copies_go(tmp_path, monkeypatch):
    run = FakeRun()
    train(tmp_path, run)
    assert sorted(run.uploads) in (
        [("abc-best", "best.ckpt", b"1"), ("abc-last", "last.ckpt", b"1"), ("abc-last", "last.ckpt", b"2")],
        [("abc-best", "best.ckpt", b"1"), ("abc-last", "last.ckpt", b"2")],  # the newer one came before its turn
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best.ckpt", "last.ckpt"]
    # The flag asks for it.
    kinds = [
        {type(callback) for callback in build_trainer(options, None).callbacks}
        for options in (EngineOptions(gpus=0), EngineOptions(gpus=0, wandb_artifacts=True))
    ]
    assert kinds[1] - kinds[0] == {WandbArtifacts}


def test_failed_uploads_are_tried_again_with_growing_waits(tmp_path, waits, caplog):
    run = FakeRun([OSError("HTTPSConnectionPool: Max retries exceeded with url"), TimeoutError(), None])
    train(tmp_path, run, [b"1"])
    assert waits == [2.0, 4.0] and run.present.count("best.ckpt") == 3
    assert "Max retries exceeded with url); trying again in 2 s" in caplog.text
    assert not (tmp_path / "wandb_upload").exists()


def test_what_cannot_be_uploaded_is_kept_and_goes_with_the_next_run(tmp_path, waits, caplog):
    attempts = len(wandb_artifacts.WAITS) + 1
    train(tmp_path, FakeRun([RuntimeError("no route")] * 2 * attempts), [b"1"])
    assert waits == [*wandb_artifacts.WAITS] * 2  # for each of two
    assert len(list((tmp_path / "wandb_upload").glob("*.ckpt"))) == 2
    assert "not uploaded, kept in" in caplog.text
    again = FakeRun()
    train(tmp_path, again, [])
    assert {name for _, name, _ in again.uploads} == {"best.ckpt", "last.ckpt"}
    assert not (tmp_path / "wandb_upload").exists()


def test_a_quota_that_is_used_up_ends_the_uploads_and_not_the_run(tmp_path, waits, caplog):
    run = FakeRun([ValueError("Storage quota exceeded for entity\nsecond line")])
    train(tmp_path, run)
    assert waits == [] and len(run.present) == 1
    assert "no room for artifacts (Storage quota exceeded for entity)" in caplog.text
    assert (tmp_path / "last.ckpt").read_bytes() == b"2" and list((tmp_path / "wandb_upload").iterdir())


def test_an_upload_that_hangs_does_not_keep_the_run_from_ending(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(wandb_artifacts, "FINISH_SECONDS", 0.05)
    run = FakeRun()
    run.gate.clear()
    train(tmp_path, run, [b"1"])
    assert "not uploaded, kept in" in caplog.text and list((tmp_path / "wandb_upload").iterdir())
    run.gate.set()


@pytest.mark.parametrize("loggers", [[], None])
def test_offline_nothing_is_uploaded(tmp_path, caplog, loggers):
    run = FakeRun(offline=True)
    train(tmp_path, run, loggers=loggers)
    assert run.uploads == [] and not (tmp_path / "wandb_upload").exists()
    assert "no checkpoint is uploaded" in caplog.text
