"""A run ends when it gets no better, what it began with counts, and it goes on where it was."""

import logging

import pytest
import torch
from second_task import Autoencoder, train
from short_runs import metrics, state

from options.engine import EngineOptions

OPTIONS = {"batch_size": 48, "epochs": 6, "lr": 1e-3}  # 2 steps an epoch


@pytest.fixture
def values(monkeypatch):
    """Return a function that has validations give these values, one after the other."""

    def give(*numbers):
        left = list(numbers)

        def validation_step(self, batch, batch_idx):
            self.value = left.pop(0) if batch_idx == 0 else self.value
            self.log("val_acc", self.value)

        monkeypatch.setattr(Autoencoder, "validation_step", validation_step)

    return give


@pytest.mark.flag("patience")
def test_a_run_ends_after_its_patience(tmp_path, values):
    values(0.0, 0.1, 0.5, 0.5, 0.4)
    _, trainer = train(tmp_path, patience=2, **OPTIONS)
    assert trainer.global_step == 8
    assert torch.load(tmp_path / "best.ckpt", weights_only=True)["global_step"] == 4
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["callbacks"]["Patience"] == {
        "best": 0.5, "best_step": 4, "waited": 2,
    }  # fmt: skip


def test_what_a_run_begins_with_may_be_the_best(tmp_path, values, caplog):
    values(0.7, 0.1, 0.2)
    torch.manual_seed(0)
    with caplog.at_level(logging.INFO):
        module, trainer = train(tmp_path, patience=2, **OPTIONS)
    best = torch.load(tmp_path / "best.ckpt", weights_only=True)
    assert trainer.global_step == 4 and best["global_step"] == 0
    assert not torch.equal(best["state_dict"]["down.weight"], module.down.weight)
    assert "training did not help: val_acc was largest before the first step" in caplog.text
    assert "val_acc has been no larger than 0.7, that of step 0, for 2 validations" in caplog.text


def test_a_run_goes_on_with_its_patience_and_to_the_same_bits(tmp_path, values):
    (tmp_path / "on").mkdir()
    values(0.0, 0.5, 0.3, 0.3, 0.2, 0.1)
    expected, trainer = train(tmp_path, patience=3, keep_every_n_epochs=1, **OPTIONS)
    assert trainer.global_step == 8
    values(0.3, 0.3, 0.2, 0.1)
    resumed, trainer = train(tmp_path / "on", ckpt_path=tmp_path / "epoch_001.ckpt", patience=3, **OPTIONS)
    assert trainer.global_step == 8
    torch.testing.assert_close(state(resumed), state(expected), rtol=0, atol=0)
    last = torch.load(tmp_path / "last.ckpt", weights_only=True)["callbacks"]["Patience"]
    values()
    _, trainer = train(tmp_path / "on", ckpt_path=tmp_path / "last.ckpt", patience=3, **OPTIONS)
    assert trainer.global_step == 8 and last["waited"] == 3


def test_validating_first_changes_no_step(tmp_path):
    (tmp_path / "first").mkdir()
    plain, _ = train(tmp_path, **OPTIONS)
    validated, _ = train(tmp_path / "first", patience=99, **OPTIONS)
    torch.testing.assert_close(state(validated), state(plain), rtol=0, atol=0)
    rows = metrics(tmp_path / "first")
    assert rows[0]["step"] == 0 and "val_acc" in rows[0] and rows[-1] == metrics(tmp_path)[-1]


def test_a_metric_that_never_appears_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(Autoencoder, "validation_step", lambda *_: None)
    with pytest.raises(Exception, match="val_acc"):
        train(tmp_path, patience=1, **OPTIONS)


def test_without_a_metric_there_is_nothing_to_wait_for():
    with pytest.raises(ValueError, match="--patience waits for a better --monitor, which is none"):
        EngineOptions(patience=3, monitor="none")
