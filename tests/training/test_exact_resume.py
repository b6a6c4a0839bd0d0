"""A run that is stopped by a signal at any place and resumed ends with the same bits as one that was not."""

import os
import signal

import pytest
import pytorch_lightning as pl
import torch
from short_runs import build, fit, on_two_ranks, state

from callbacks import truncate_metrics
from stopping import Stopped, StopSignals

FILES = ("last.ckpt", "last.previous.ckpt", "best.ckpt")


class SignalAt(pl.Callback):
    """Send this process SIGTERM in a hook, once for each number of batches done."""

    def __init__(self, hook, seen):
        setattr(self, hook, lambda trainer, *_: self._send(trainer, hook, seen))

    @staticmethod
    def _send(trainer, hook, seen):
        place = (hook, trainer.fit_loop.epoch_loop.total_batch_idx)
        if trainer.state.fn == "fit" and place not in seen:
            seen.add(place)
            os.kill(os.getpid(), signal.SIGTERM)


class Trained(pl.Callback):
    """Keep the images of the batches that were trained on."""

    def __init__(self):
        self.indices = []

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        self.indices.append(batch.index.tolist())


def piece(folder, hooks, seen, ckpt_path, options):
    """Train until a signal stops the run or it ends; return (model, whether it ended, batches)."""
    recorder = Trained()
    with StopSignals() as stop:
        model, datamodule, trainer = build(folder, stop=stop, **options)
        trainer.callbacks[:0] = [recorder, *(SignalAt(hook, seen) for hook in hooks)]
        try:
            trainer.fit(model, datamodule=datamodule, ckpt_path=ckpt_path, weights_only=True)
        except Stopped:
            return model, False, recorder.indices
    return model, True, recorder.indices


def in_pieces(folder, hooks, **options):
    """Train, stopped and resumed again and again; return (model, batches, number of pieces)."""
    seen, batches, ckpt_path, number = set(), [], None, 0
    while True:
        model, ended, indices = piece(folder, hooks, seen, ckpt_path, options)
        batches += indices
        number += 1
        if ended:
            return model, batches, number
        if (folder / "last.ckpt").exists():
            ckpt_path = folder / "last.ckpt"
            truncate_metrics(folder / "metrics.csv", torch.load(ckpt_path, weights_only=True)["global_step"])


def checked_pieces(tmp_path, hooks, **options):
    """Return the number of pieces of a run, having compared it with one that was not stopped."""
    (tmp_path / "whole").mkdir(), (tmp_path / "pieces").mkdir()
    recorder = Trained()
    whole, _, _ = fit(tmp_path / "whole", recorder, **options)
    pieces, batches, number = in_pieces(tmp_path / "pieces", hooks, **options)
    assert batches == recorder.indices
    compare_runs(tmp_path, state(whole), state(pieces))
    return number


def compare_runs(tmp_path, whole, pieces):
    torch.testing.assert_close(pieces, whole, rtol=0, atol=0)
    metrics = [(tmp_path / name / "metrics.csv").read_bytes() for name in ("whole", "pieces")]
    assert metrics[0] == metrics[1]
    for name in FILES[::2]:
        saved = [torch.load(tmp_path / folder / name, weights_only=True) for folder in ("whole", "pieces")]
        for key in ("state_dict", "optimizer_states", "lr_schedulers", "FaceDataModule", "global_step", "epoch"):
            torch.testing.assert_close(saved[1][key], saved[0][key], rtol=0, atol=0)
        assert scores(saved[1]) == scores(saved[0])


def scores(checkpoint):
    return [float(s["best_model_score"]) for s in checkpoint["callbacks"].values() if "best_model_score" in s]


OPTIONS = {"batch_size": 8, "epochs": 2, "val_check_interval": 0.5, "log_every_n_steps": 3, "lr": 0.05}
VARIANTS = {
    "plain": {},
    "accumulation": {"accumulate_grad_batches": 2, "class_embeddings": True, "k_nearest": 2, "optimizer": "adamw"},
    "graph": {"sampler": "graph", "num_workers": 1},
    "no validation in an epoch": {"val_check_interval": 1.0, "check_val_every_n_epoch": 2, "num_workers": 1},
}


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MASKWISE_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_run_stopped_after_every_batch_ends_with_the_same_bits(noise_faces, tmp_path, variant):
    number = checked_pieces(
        tmp_path, ["on_train_batch_end"], data_root=noise_faces, **OPTIONS | VARIANTS[variant]
    )
    assert number >= (5 if variant == "accumulation" else 9)
