"""What each flag of the trainer and the run changes."""

from pathlib import Path

import pytest
import torch
from observed import config, datamodule, recognizer, session
from pytorch_lightning.strategies import DDPStrategy

from cli import training
from engine.devices import local_ranks, uses_gpu
from engine.trainer import build_trainer


@pytest.mark.flag("epochs", "accumulate_grad_batches", "check_val_every_n_epoch", "test_run")
@pytest.mark.parametrize(
    ("options", "attribute", "value"),
    [
        ({"epochs": 7}, "max_epochs", 7),
        ({"accumulate_grad_batches": 3}, "accumulate_grad_batches", 3),
        ({"epochs": 4, "check_val_every_n_epoch": 2}, "check_val_every_n_epoch", 2),
        ({"test_run": True}, "limit_train_batches", 50),
        ({}, "limit_train_batches", 1.0),
    ],
)
def test_trainer_settings(options, attribute, value, tmp_path):
    assert getattr(build_trainer(config(**options), tmp_path), attribute) == value


@pytest.mark.flag("precision", "use_16bit")
@pytest.mark.parametrize(
    ("options", "precision"),
    [({}, "32-true"), ({"precision": "bf16"}, "bf16-mixed"), ({"use_16bit": True}, "bf16-mixed")],
)
def test_precision_and_use_16bit_reach_the_trainer(options, precision):
    assert build_trainer(config(**options), None).precision == precision


@pytest.mark.flag("num_processes")
def test_num_processes_start_gloo_ranks():
    assert build_trainer(config(), None).world_size == 1
    trainer = build_trainer(config(num_processes=2), None)
    assert trainer.world_size == 2
    assert isinstance(trainer.strategy, DDPStrategy) and trainer.strategy.process_group_backend == "gloo"


@pytest.mark.flag("gpus")
def test_gpus_are_used_where_there_are_any(monkeypatch):
    assert build_trainer(config(gpus=0), None).accelerator.__class__.__name__ == "CPUAccelerator"
    for available in (False, True):
        monkeypatch.setattr(torch.cuda, "is_available", lambda answer=available: answer)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
        assert uses_gpu(config(gpus=2)) is available
        assert not uses_gpu(config(gpus=0))
    assert (local_ranks(config(gpus=2)), local_ranks(config(gpus=0))) == (2, 1)


@pytest.mark.flag("seed")
def test_seed_decides_weights_batches_and_held_out_identities(faces, quiet_log):
    first, again, other = (session(faces, seed=seed) for seed in (1, 1, 2))
    kernels = [each.model.head.kernel for each in (first, again, other)]
    assert torch.equal(kernels[0], kernels[1]) and not torch.equal(kernels[0], kernels[2])
    batches = [next(iter(each.datamodule.train_dataloader())) for each in (first, again, other)]
    assert torch.equal(batches[0].image, batches[1].image) and not torch.equal(batches[0].image, batches[2].image)
    names = [
        tuple(datamodule(data_root=str(faces / "train"), val_identities=0.25, seed=seed).train_dataset.class_names)
        for seed in (1, 1, 2, 3)
    ]
    assert names[0] == names[1] and len(set(names)) > 1


@pytest.mark.flag("compile")
def test_compile_compiles_the_backbone_and_keeps_its_names(faces, quiet_log):
    plain, compiled = (session(faces, compile=choice).model for choice in (False, True))
    assert plain.model._compiled_call_impl is None and compiled.model._compiled_call_impl is not None
    assert plain.state_dict().keys() == compiled.state_dict().keys()


@pytest.mark.flag("color_space", "start_from_model_statedict")
def test_start_from_model_statedict_starts_with_these_weights_in_their_color_space(faces, tmp_path, quiet_log):
    stored = recognizer(seed=5).model.state_dict()
    torch.save(stored, tmp_path / "foreign.pt")
    first = next(name for name, value in stored.items() if value.ndim == 4)
    for color_space in ("rgb", "bgr"):
        model = session(faces, start_from_model_statedict=str(tmp_path / "foreign.pt"), color_space=color_space).model
        loaded = model.model.state_dict()
        expected = stored[first] if color_space == "rgb" else stored[first].flip(1)
        assert torch.equal(loaded[first], expected)
        assert all(torch.equal(loaded[name], stored[name]) for name in stored if name != first)


@pytest.mark.flag("fast_dev_run")
def test_fast_dev_run_runs_and_leaves_nothing_behind(faces, quiet_log):
    prepared = session(faces)
    assert training.run(prepared) == 0
    assert prepared.trainer.global_step == 1
    assert not list(Path().iterdir())
