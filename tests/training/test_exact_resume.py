"""A run that is stopped by a signal at any place and resumed ends with the same bits as one that was not."""

import os
import random
import signal
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from short_runs import build, fit, on_two_ranks, state, write_faces, write_pairs

from engine.callbacks import RankState
from engine.callbacks.weight_average import KEY
from engine.guard import RunningMeans
from engine.loggers.metrics_logger import truncate_metrics
from engine.signals import Stopped, StopSignals

pytestmark = pytest.mark.usefixtures("own_cache")

FILES = ("last.ckpt", "last.ckpt.previous", "best.ckpt")


class SignalAt(pl.Callback):
    """Send this process SIGTERM in a hook, once for each number of batches done, until it has received one.

    A run stops only between updates: a second signal on its way there would end the process where a batch takes longer
    than the echo of a first.
    """

    def __init__(self, hook, seen, stop):
        setattr(self, hook, lambda trainer, *_: self._send(trainer, hook, seen, stop))

    @staticmethod
    def _send(trainer, hook, seen, stop):
        place = (hook, trainer.fit_loop.epoch_loop.total_batch_idx)
        if trainer.state.fn == "fit" and place not in seen and not stop.received:
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
        trainer.callbacks[:0] = [recorder, *(SignalAt(hook, seen, stop) for hook in hooks)]
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
        assert saved[0].keys() == saved[1].keys()
        for key in ("state_dict", KEY, "optimizer_states", "lr_schedulers", "FaceDataModule", "global_step", "epoch"):
            torch.testing.assert_close(saved[1].get(key, {}), saved[0].get(key, {}), rtol=0, atol=0)
        assert scores(saved[1]) == scores(saved[0])


def scores(checkpoint):
    return [float(s["best_model_score"]) for s in checkpoint["callbacks"].values() if "best_model_score" in s]


OPTIONS = {"batch_size": 8, "epochs": 2, "val_check_interval": 0.5, "log_every_n_steps": 3, "lr": 0.05}
VARIANTS = {
    "plain": {"score_normalization": "visibility"},
    "accumulation": {
        **{"accumulate_grad_batches": 2, "class_embeddings": True, "k_nearest": 2, "optimizer": "adamw"},
        "channels_last": False,
    },
    "average": {"accumulate_grad_batches": 2, "ema_decay": 0.5, "class_embeddings": True, "k_nearest": 2},
    "graph": {"sampler": "graph", "num_workers": 1},
    "adapters": {
        **{"lora_rank": 2, "lora_by_quality": True, "lora_dropout": 0.2, "ema_decay": 0.5},
        "stages": ("1:heads.*,matcher.*", "1:model.*,heads.*=0.02,modulator.*"),
        "modulator": ("quality", "visible"),
    },
    "no validation in an epoch": {"val_check_interval": 1.0, "check_val_every_n_epoch": 2, "num_workers": 1},
}
# Two views, a teacher, a switch of what is trained, easy images first and an average, all in one run.
COURSE = {
    **{"stages": ("1:heads.*,matcher.*", "1:*=0.02"), "lr_schedule": "cosine", "warmup_steps": 1, "optimizer": "adamw"},
    **{"degradation": "first_order", "teacher_weight": 1.0, "remember_weight": 0.5, "info_nce_weight": 0.2},
    **{"curriculum": "contrast", "curriculum_epochs": (0.0, 2.0), "epoch_share": 0.75, "ema_decay": 0.5},
    **{"start_from_model_statedict": "not read by a Recognizer", "penalty": ("model.*=l1:1e-5:prox",)},
}
VARIANTS["pairs in stages"] = COURSE
SLOW = ("plain", "average", "graph", "adapters", "no validation in an epoch", "pairs in stages")


@pytest.mark.parametrize("variant", [pytest.param(v, marks=[pytest.mark.slow] * (v in SLOW)) for v in VARIANTS])
def test_a_run_stopped_after_every_batch_ends_with_the_same_bits(noise_faces, tmp_path, variant):
    number = checked_pieces(tmp_path, ["on_train_batch_end"], data_root=noise_faces, **OPTIONS | VARIANTS[variant])
    options = VARIANTS[variant]
    assert number >= (5 if "accumulate_grad_batches" in options else 7 if "epoch_share" in options else 9)


@pytest.mark.slow
def test_a_mixture_of_pairs_stopped_after_every_batch_ends_with_the_same_bits(noise_faces, tmp_path):
    files, listed = write_pairs(tmp_path / "pairs", identities=4), tmp_path / "same.txt"
    listed.write_text("web/person_01 = camera/person_02\n", encoding="utf-8")
    web, camera = f"web={noise_faces}:2", f"camera={files},data_format=pairs,head=cosface,final_weight=3"
    options = COURSE | {"degradation": None, "data": (f"{web},degradation=second_order", camera)}
    options |= {"merge_identities": str(listed), "val_data_path": noise_faces}
    assert checked_pieces(tmp_path, ["on_train_batch_end"], **OPTIONS | options) >= 9


def test_a_run_goes_on_in_another_layout_to_the_same_numbers_but_for_rounding(noise_faces, tmp_path):
    options = OPTIONS | {"data_root": noise_faces, "check_mode": True, "lr": 1e-3, "val_check_interval": 1.0}
    whole, _, _ = fit(tmp_path, **options)
    earlier = (tmp_path / FILES[1]).rename(tmp_path / "earlier.ckpt")
    other, _, trainer = fit(tmp_path, ckpt_path=earlier, **options, channels_last=False)
    torch.testing.assert_close(state(other), state(whole), rtol=1e-9, atol=1e-9)
    (momentum,) = (each.whole.state for each in trainer.optimizers)
    moved = [(weight, kept["momentum_buffer"]) for weight, kept in momentum.items() if weight.ndim == 4]
    assert moved and all(kept.stride() == weight.stride() and weight.is_contiguous() for weight, kept in moved)


def test_a_validation_that_a_signal_meets_is_given_up_and_done_again_when_resumed(noise_faces, tmp_path):
    options = OPTIONS | {"data_root": noise_faces, "log_every_n_steps": 50, "class_embeddings": True, "k_nearest": 2}
    options |= {"ema_decay": 0.5}  # the average is in place while the checkpoint is written
    # Two validations inside the epochs and two at their ends, each given up twice.
    assert checked_pieces(tmp_path, ["on_validation_start", "on_validation_batch_end"], **options) == 2 * 4 + 1


def test_a_run_stopped_between_a_validation_and_the_last_batch_trains_on_that_batch(noise_faces, tmp_path):
    """Lightning says of the batch at hand that it is the last one, and takes it for done where a validation was."""
    options = OPTIONS | {"data_root": noise_faces, "val_check_interval": 0.25, "epochs": 1}
    assert checked_pieces(tmp_path, ["on_validation_end"], **options) >= 4


@pytest.mark.slow
def test_neighbours_for_graph_sampling_survive_a_validation_that_is_given_up(noise_faces, tmp_path):
    options = OPTIONS | VARIANTS["graph"] | {"data_root": noise_faces, "val_check_interval": 1.0}
    assert checked_pieces(tmp_path, ["on_validation_start"], **options) == 2 + 1


@pytest.mark.slow
@pytest.mark.parametrize(("val_check_interval", "ema_decay"), [(0.5, 0.0), (1.0, 0.0), (0.5, 0.9)])
def test_a_run_that_goes_on_from_its_best_checkpoint_refreshes_the_neighbour_classes_too(
    noise_faces, tmp_path, val_check_interval, ema_decay
):
    """Lightning passes over the end of an epoch where it takes a checkpoint for one that ends it."""
    options = OPTIONS | {"data_root": noise_faces, "class_embeddings": True, "k_nearest": 2, "lr": 0.5}
    options |= {"val_check_interval": val_check_interval, "ema_decay": ema_decay}
    for name in ("whole", "pieces"):
        (tmp_path / name).mkdir()
    whole, _, _ = fit(tmp_path / "whole", KeepBest(tmp_path), **options)
    (tmp_path / "pieces" / "metrics.csv").write_bytes((tmp_path / "best.csv").read_bytes())
    pieces, _, _ = fit(tmp_path / "pieces", ckpt_path=tmp_path / "best_4.ckpt", **options)
    torch.testing.assert_close(state(pieces), state(whole), rtol=0, atol=0)
    metrics = [(tmp_path / name / "metrics.csv").read_bytes() for name in ("whole", "pieces")]
    assert metrics[0] == metrics[1]


class KeepBest(pl.callbacks.Checkpoint):
    """Keep what would be the best checkpoint of step 4, and metrics.csv of that moment."""

    def __init__(self, folder):
        self._folder = folder

    def on_validation_end(self, trainer, module):
        if trainer.val_check_batch == 2:  # the best checkpoint is taken then
            self._keep(trainer)

    def on_train_epoch_end(self, trainer, module):
        if trainer.val_check_batch == 4:
            self._keep(trainer)

    def _keep(self, trainer):
        if trainer.global_step == 4 and trainer.state.fn == "fit":
            trainer.save_checkpoint(self._folder / "best_4.ckpt")
            (self._folder / "best.csv").write_bytes((self._folder / "whole" / "metrics.csv").read_bytes())


def test_a_signal_at_the_end_of_an_epoch_leaves_the_checkpoint_of_the_epoch(noise_faces, tmp_path):
    options = OPTIONS | {"data_root": noise_faces, "check_val_every_n_epoch": 2, "save_all_models": True}
    assert checked_pieces(tmp_path, ["on_train_epoch_end"], **options) == 2 + 1
    whole, pieces = (tmp_path / name / "epoch_000.ckpt" for name in ("whole", "pieces"))
    weights = [torch.load(path, weights_only=True)["state_dict"] for path in (whole, pieces)]
    torch.testing.assert_close(weights[1], weights[0], rtol=0, atol=0)


def test_images_that_cannot_be_read_are_known_to_the_resumed_run(tmp_path):
    faces = write_faces(tmp_path / "faces")
    for name in ("train/person_02/1.png", "train/person_05/3.png"):
        (faces / name).write_bytes(b"not an image")
    options = OPTIONS | {"data_root": str(faces), "max_bad_fraction": 0.1, "epochs": 1}
    checked_pieces(tmp_path, ["on_train_batch_end"], **options)
    lists = [(tmp_path / name / "unreadable.txt").read_text() for name in ("whole", "pieces")]
    assert lists[0] == lists[1] and lists[0].count("\n") == 2
    found = [rank["unreadable"] for rank in torch.load(tmp_path / "pieces/last.ckpt", weights_only=True)["ranks"]]
    assert len(found[0]) == 2


@pytest.mark.flag("checkpoint_every_n_steps")
def test_checkpoint_every_n_steps_writes_within_the_epoch_and_keeps_the_one_before(noise_faces, tmp_path):
    written = []

    class Watch(pl.Callback):
        def on_train_batch_end(self, trainer, *_):
            paths = [tmp_path / name for name in ("last.ckpt.previous", "last.ckpt")]
            steps = [torch.load(p, weights_only=True)["global_step"] if p.exists() else None for p in paths]
            written.append((trainer.global_step, *steps))

    options = {"data_root": noise_faces, "batch_size": 8, "epochs": 2, "checkpoint_every_n_steps": 3}
    fit(tmp_path, Watch(), **options)
    assert written == [
        *((1, None, None), (2, None, None), (3, None, None), (4, None, 3)),
        *((5, 3, 4), (6, 3, 4), (7, 4, 6), (8, 4, 6)),
    ]
    place = torch.load(tmp_path / "last.ckpt.previous", weights_only=True)["FaceDataModule"]
    assert place == {"seed": 42, "epoch": 1, "batches_done": 2}


@pytest.mark.flag("keep_every_n_epochs")
def test_keep_every_n_epochs_keeps_these_for_good(noise_faces, tmp_path):
    fit(tmp_path, data_root=noise_faces, epochs=5, keep_every_n_epochs=2)
    names = {path.name for path in tmp_path.glob("*.ckpt*")}
    assert names == {"best.ckpt", "last.ckpt", "last.ckpt.previous", "epoch_001.ckpt", "epoch_003.ckpt"}
    kept = {n: torch.load(tmp_path / n, weights_only=True)["global_step"] for n in ("epoch_001.ckpt", "epoch_003.ckpt")}
    assert kept == {"epoch_001.ckpt": 4, "epoch_003.ckpt": 8}


def test_a_checkpoint_holds_the_generators_of_each_rank_and_gives_them_back(noise_faces, tmp_path):
    class Draws(pl.Callback):
        def __init__(self):
            self.drawn = []

        def on_train_batch_end(self, trainer, module, *_):
            self.drawn.append((trainer.global_step, random.random(), np.random.rand(), float(torch.rand(()))))

    options = {"data_root": noise_faces, "batch_size": 8, "epochs": 1, "checkpoint_every_n_steps": 2}
    whole, rest = Draws(), Draws()
    fit(tmp_path, whole, **options)
    (tmp_path / "last.ckpt.previous").rename(tmp_path / "half.ckpt")
    random.seed(5), np.random.seed(5)
    fit(tmp_path, rest, ckpt_path=tmp_path / "half.ckpt", **options)
    assert len(rest.drawn) == 2 and rest.drawn == whole.drawn[2:]


def test_the_best_score_survives_a_move_of_the_run_folder(noise_faces, tmp_path):
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
    fit(tmp_path / "old", data_root=noise_faces)
    saved = torch.load(tmp_path / "old" / "last.ckpt", weights_only=True)
    (key,) = (key for key in saved["callbacks"] if "best_model_score" in saved["callbacks"][key])
    saved["callbacks"][key]["best_model_score"] = torch.tensor(2.0)  # never reached again
    saved["callbacks"][key]["best_k_models"] = dict.fromkeys(
        saved["callbacks"][key]["best_k_models"], torch.tensor(2.0)
    )
    torch.save(saved, tmp_path / "new" / "last.ckpt")
    fit(tmp_path / "new", data_root=noise_faces, epochs=2, ckpt_path=tmp_path / "new" / "last.ckpt")
    assert not (tmp_path / "new" / "best.ckpt").exists()
    assert scores(torch.load(tmp_path / "new" / "last.ckpt", weights_only=True)) == [2.0]


# ---------------------------------------------------------------- two ranks


def rank_in_pieces(folder, hooks, options):
    """Train on this rank; only rank 1 gets the signals."""
    rank = int(os.environ["RANK"])
    (Path(folder) / "whole").mkdir(exist_ok=True), (Path(folder) / "pieces").mkdir(exist_ok=True)
    whole, _, _ = fit(Path(folder) / "whole", **options)
    pieces, batches, number = in_pieces(Path(folder) / "pieces", hooks if rank else [], **options)
    return {"whole": state(whole), "pieces": state(pieces), "number": number, "batches": batches}


SPLIT = {"partial_fc_rate": 0.5, "ema_decay": 0.5, "class_embeddings": True, "k_nearest": 2}


@pytest.mark.parametrize(
    ("hook", "more"),
    [
        ("on_validation_start", SPLIT),
        *(pytest.param("on_train_batch_end", more, marks=pytest.mark.slow) for more in ({}, SPLIT)),
    ],
    ids=str,
)
def test_two_ranks_stop_together_at_a_signal_to_one_and_resume_to_the_same_bits(tmp_path, hook, more):
    faces = write_faces(tmp_path / "faces", pairs=7)
    options = OPTIONS | {"data_root": str(faces), "epochs": 1, "accumulate_grad_batches": 2, "log_every_n_steps": 5}
    options |= {"cross_rank_pairs": True}  # a rank has one identity
    options |= more
    first, second = on_two_ranks(rank_in_pieces, str(tmp_path), [hook], options)
    assert first["number"] == second["number"] >= 2
    for rank in (first, second):
        compare_runs(tmp_path, rank["whole"], rank["pieces"])


def test_running_means_of_other_numbers_of_ranks_keep_their_totals():
    sums = [torch.tensor(pair, dtype=torch.double) for pair in ((6.0, 2.0), (4.0, 1.0), (5.0, 5.0))]
    saved = [{"means": {"loss": s}, "unreadable": {}, "generators": {}} for s in sums]
    for world in (1, 2, 4):
        restored = []
        for rank in range(world):
            module = SimpleNamespace(means=RunningMeans(), device=torch.device("cpu"))
            trainer = SimpleNamespace(global_rank=rank, world_size=world, datamodule=SimpleNamespace(unreadable={}))
            callback = RankState()
            callback.on_load_checkpoint(trainer, module, {"ranks": saved})
            callback.on_train_start(trainer, module)
            restored.append(module.means.state_dict()["loss"])  # on every rank: they compute together
        assert torch.stack(restored).sum(0).tolist() == [15, 8]


def test_lightning_still_has_the_hooks_that_the_trainer_switches_off(noise_faces, tmp_path):
    _, _, trainer = build(tmp_path, data_root=noise_faces)
    before = signal.getsignal(signal.SIGTERM)
    trainer._signal_connector.register_signal_handlers()
    assert signal.getsignal(signal.SIGTERM) is before
    for replaced, name in (
        (trainer._signal_connector, "register_signal_handlers"),
        (trainer.fit_loop.epoch_loop, "_broadcast_sigterm_tensor"),
    ):
        assert name in vars(type(replaced)) and name in vars(type(replaced).__mro__[1])
