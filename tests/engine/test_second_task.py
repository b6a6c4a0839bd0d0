"""The engine trains a task that knows no face: all that it gives the recognizer it gives this one."""

import json
import os
import signal
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from second_task import Autoencoder, train
from short_runs import metrics, on_two_ranks, state

from engine.guard import NonFiniteError
from engine.signals import Stopped, StopSignals
from system.launch import is_main_process


class At(pl.Callback):
    """Do something when a number of updates has been made."""

    def __init__(self, step, do):
        self.step, self.do = step, do

    def on_train_batch_end(self, trainer, module, *_):
        if trainer.global_step == self.step:
            self.do()


def test_it_learns_and_leaves_metrics_heartbeat_and_checkpoints(tmp_path):
    module, trainer = train(tmp_path)
    rows = [row for row in metrics(tmp_path) if "train_loss" in row]
    assert [row["step"] for row in rows] == [2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24]
    assert {"train_error_loss", "train_length_loss", "train_code", "grad_norm", "lr", "skipped_steps"} < set(rows[0])
    assert rows[-1]["train_error_loss"] < 0.9 * rows[0]["train_error_loss"]
    assert json.loads((tmp_path / "heartbeat.json").read_text())["step"] == trainer.global_step == 24
    assert {"last.ckpt", "best.ckpt"} <= {file.name for file in tmp_path.iterdir()}
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)
    torch.testing.assert_close(saved["state_dict"], dict(module.state_dict()), rtol=0, atol=0)


@pytest.mark.parametrize("name", ["TERM", "INT"])
def test_a_signal_stops_it_between_steps_and_it_goes_on_to_the_same_bits(tmp_path, name):
    whole, interrupted = tmp_path / "whole", tmp_path / "interrupted"
    whole.mkdir(), interrupted.mkdir()
    expected, _ = train(whole)
    with pytest.raises(Stopped), StopSignals() as stop:
        train(interrupted, At(11, lambda: os.kill(os.getpid(), getattr(signal, f"SIG{name}"))), stop=stop)
    assert torch.load(interrupted / "last.ckpt", weights_only=True)["global_step"] == 11
    resumed, _ = train(interrupted, ckpt_path=interrupted / "last.ckpt")
    torch.testing.assert_close(state(resumed), state(expected), rtol=0, atol=0)
    assert metrics(interrupted)[-1] == metrics(whole)[-1]


def test_a_step_that_is_not_finite_is_skipped_as_if_it_had_not_been(tmp_path, monkeypatch):
    (tmp_path / "skip").mkdir(), (tmp_path / "stop").mkdir()
    terms, before = Autoencoder.forward_terms, []

    def spoilt(self, batch, step):
        if step.number == 7:
            before.append(state(self))
            batch = batch._replace(values=batch.values * torch.nan)
        elif step.number == 8:
            before.append(state(self))
        return terms(self, batch, step)

    monkeypatch.setattr(Autoencoder, "forward_terms", spoilt)
    module, _ = train(tmp_path / "skip", on_nonfinite="skip")
    assert module.guard.skipped == 1
    torch.testing.assert_close(before[-1], before[0], rtol=0, atol=0)
    (line,) = (tmp_path / "skip" / "incidents.jsonl").read_text().splitlines()
    assert json.loads(line)["step"] == 8 and "down" in json.loads(line)["cause"]
    with pytest.raises(NonFiniteError, match="step 8: loss term error, length is not finite, first in the output of"):
        train(tmp_path / "stop")


def trained_rank(folder):
    """Train on this rank and return the weights."""
    module, _ = train(Path(folder) if is_main_process() else None, num_processes=2, ema_decay=0.9)
    return state(module)


def test_two_ranks_end_alike_and_one_goes_on(tmp_path):
    first, second = on_two_ranks(trained_rank, str(tmp_path))
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    _, trainer = train(tmp_path, ckpt_path=tmp_path / "last.ckpt", ema_decay=0.9, epochs=4)
    assert trainer.global_step == 32
