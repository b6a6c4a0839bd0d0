"""Flags of the run have the effect that their help says."""

import json
import shutil

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import DDPStrategy
from short_runs import SMALL, build, fit, metrics

import main
from cli import training
from config import Config
from engine import devices
from engine import trainer as trainer_module
from nets import Features


class Seen(pl.Callback):
    """Keep the number of batches of each epoch and the type of the feature maps inside the backbone."""

    def __init__(self):
        self.batches = []
        self.dtypes = set()

    def on_fit_start(self, trainer, module):
        convolution = next(m for m in module.model.modules() if isinstance(m, torch.nn.Conv2d))
        convolution.register_forward_hook(lambda _, __, output: self.dtypes.add(output.dtype))

    def on_train_epoch_start(self, trainer, module):
        self.batches.append(0)

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        self.batches[-1] += 1


def test_save_all_models_keeps_the_weights_of_each_epoch(noise_faces, tmp_path):
    fit(tmp_path, data_root=noise_faces, epochs=3, save_all_models=True)
    names = sorted(path.name for path in tmp_path.glob("*.ckpt"))
    assert names == ["best.ckpt", "epoch_000.ckpt", "epoch_001.ckpt", "epoch_002.ckpt", "last.ckpt"]
    saved = [torch.load(tmp_path / f"epoch_00{epoch}.ckpt", weights_only=True) for epoch in range(3)]
    assert [checkpoint["global_step"] for checkpoint in saved] == [2, 4, 6]
    kernels = [checkpoint["state_dict"]["heads.0.kernel"] for checkpoint in saved]
    assert not torch.equal(kernels[0], kernels[1]) and not torch.equal(kernels[1], kernels[2])


def test_without_it_the_best_and_the_last_weights_are_kept(noise_faces, tmp_path):
    fit(tmp_path, data_root=noise_faces, epochs=3)
    assert sorted(path.name for path in tmp_path.glob("*.ckpt")) == ["best.ckpt", "last.ckpt"]
    best, last = (torch.load(tmp_path / f"{name}.ckpt", weights_only=True) for name in ("best", "last"))
    assert last["global_step"] == 6
    scores = {row["step"]: row["val_acc"] for row in metrics(tmp_path) if "val_acc" in row}
    assert scores[best["global_step"]] == max(scores.values())


@pytest.mark.parametrize("name", ["val_adaface_acc", "lfw_clean_qaconv_acc"])
def test_the_monitored_metric_chooses_the_best_weights(noise_faces, tmp_path, name):
    *_, trainer = fit(tmp_path, data_root=noise_faces, epochs=2, monitor=name)
    rows = [row for row in metrics(tmp_path) if name in row]
    best = torch.load(tmp_path / "best.ckpt", weights_only=True)
    assert max(rows, key=lambda row: row[name])["step"] == best["global_step"]
    assert trainer.checkpoint_callback.monitor == name


@pytest.mark.parametrize(("share", "steps"), [(1.0, [4, 8]), (0.5, [2, 4, 6, 8])])
def test_val_check_interval_is_the_share_of_an_epoch_between_validations(noise_faces, tmp_path, share, steps):
    fit(tmp_path, data_root=noise_faces, epochs=2, batch_size=8, val_check_interval=share)
    assert [row["step"] for row in metrics(tmp_path) if "val_acc" in row] == steps


def test_a_test_run_has_fifty_batches_an_epoch_at_most(noise_faces, tmp_path, monkeypatch):
    assert trainer_module.TEST_RUN_BATCHES == 50
    monkeypatch.setattr(trainer_module, "TEST_RUN_BATCHES", 3)
    seen = Seen()
    *_, trainer = fit(tmp_path, seen, data_root=noise_faces, epochs=2, batch_size=8, test_run=True)
    assert seen.batches == [3, 3]
    assert trainer.estimated_stepping_batches == 6, "the schedule ends where the run does"
    whole = Seen()
    fit(tmp_path, whole, data_root=noise_faces, batch_size=8)
    assert whole.batches == [4]


def test_a_fast_dev_run_takes_one_batch_and_leaves_nothing_behind(noise_faces, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    session = training.prepare(
        Config(**{**SMALL, "data_root": noise_faces, "fast_dev_run": True}), frozenset({"fast_dev_run"}), []
    )
    assert training.run(session) == 0
    assert session.trainer.global_step == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "precision", "dtype"),
    [
        ({}, "32-true", torch.float32),
        ({"use_16bit": True}, "bf16-mixed", torch.bfloat16),
        ({"precision": "bf16"}, "bf16-mixed", torch.bfloat16),
    ],
    ids=str,
)
def test_precision_on_the_cpu(noise_faces, tmp_path, options, precision, dtype):
    seen = Seen()
    model, _, trainer = fit(tmp_path, seen, data_root=noise_faces, fast_dev_run=True, **options)
    assert trainer.precision == precision
    assert seen.dtypes == {dtype}
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert all(torch.isfinite(value).all() for value in model.state_dict().values())


def test_ranks_on_the_cpu_are_joined_by_gloo(noise_faces, tmp_path):
    trainer = trainer_module.build_trainer(Config(**{**SMALL, "num_processes": 2}), tmp_path)
    assert isinstance(trainer.strategy, DDPStrategy)
    assert (trainer.num_devices, trainer.world_size) == (2, 2)
    assert trainer.strategy.process_group_backend == "gloo"
    assert devices.world_size(Config(**{**SMALL, "num_processes": 2})) == 2
    *_, alone = build(tmp_path, data_root=noise_faces)
    assert not isinstance(alone.strategy, DDPStrategy) and alone.world_size == 1


def test_the_checkpoint_says_how_the_run_was_made(noise_faces, tmp_path):
    fit(tmp_path, data_root=noise_faces, s=32.0, occluders=("block", "cap"))
    checkpoint = torch.load(tmp_path / "last.ckpt", weights_only=True)
    config = checkpoint["hyper_parameters"]["config"]
    assert json.loads(json.dumps(config)) == config, "primitives only"
    assert Config.from_dict(config) == Config(
        **{**SMALL, "data_root": noise_faces, "s": 32.0, "occluders": ("block", "cap")}
    )
    assert checkpoint["hyper_parameters"]["num_classes"] == {"0": 8}
    assert checkpoint["color_space"] == "rgb"


def test_compile_compiles_the_backbone_in_place(noise_faces, tmp_path, monkeypatch):
    compiled = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda module, *args, **kwargs: compiled.append(module))
    monkeypatch.chdir(tmp_path)
    options = {**SMALL, "data_root": noise_faces, "fast_dev_run": True}
    plain = training.prepare(Config(**options), frozenset(), []).model
    assert compiled == []
    model = training.prepare(Config(**{**options, "compile": True}), frozenset(), []).model
    assert compiled == [model.model]
    assert model.state_dict().keys() == plain.state_dict().keys()


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None and shutil.which("clang++") is None, reason="no C++ compiler")
def test_a_compiled_run_trains_as_a_plain_one_and_its_checkpoint_loads(noise_faces, tmp_path, monkeypatch):
    rows = {}
    for name, flag in (("plain", []), ("compiled", ["--compile"])):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        flags = "--arch ir_tiny --embedding_size 16 --batch_size 16 --gpus 0 --num_workers 0 --epochs 1 --lr 0.01"
        assert main.main([*flags.split(), "--log_every_n_steps", "1", *flag, "--data_root", noise_faces]) == 0
        (folder,) = (tmp_path / name / "experiments").iterdir()
        rows[name] = metrics(folder)
    losses = {name: [row["train_loss"] for row in found] for name, found in rows.items()}
    assert losses["compiled"] == pytest.approx(losses["plain"], rel=1e-3)
    from cli.checkpoints import load_pretrained_model

    features = load_pretrained_model(folder / "last.ckpt").model(torch.zeros(1, 3, 112, 112))
    assert isinstance(features, Features)
