"""Mixed precision in fp16 with a loss scaler: on a GPU as it is run, on the CPU with the same scaler put in."""

import pytest
import torch
from pytorch_lightning.plugins.precision import MixedPrecision
from short_runs import build, fit, metrics, state

OPTIONS = {"batch_size": 8, "epochs": 2, "lr": 0.01, "momentum": 0.9, "class_embeddings": True, "k_nearest": 2}


class FirstScale(MixedPrecision):
    """fp16 on the CPU with a scale that overflows at first."""

    def __init__(self, scale):
        super().__init__("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=4))


def trained(folder, faces, scale, ckpt_path=None, **options):
    folder.mkdir(exist_ok=True)
    model, datamodule, trainer = build(folder, data_root=faces, **{**OPTIONS, **options})
    trainer.strategy.precision_plugin = FirstScale(scale)
    trainer.fit(model, datamodule=datamodule, ckpt_path=ckpt_path, weights_only=True)
    return model, trainer


@pytest.mark.slow
def test_overflows_are_skipped_until_the_scale_fits_and_are_not_counted(noise_faces, tmp_path):
    model, trainer = trained(tmp_path, noise_faces, 2.0**17)
    before = build(tmp_path, data_root=noise_faces, **OPTIONS)[0]
    assert trainer.precision_plugin.scaler.get_scale() < 2.0**17
    assert model.guard.skipped == 0 and not (tmp_path / "incidents.jsonl").exists()
    assert all(torch.isfinite(value).all() for value in state(model).values())
    rows = metrics(tmp_path)
    assert [row["step"] for row in rows][:8] == list(range(1, 9))
    assert "grad_norm" not in rows[0], "a step that was not made has no part in the means"
    assert rows[7]["grad_norm"] < 1e4, "in the unit of the loss, not of the scaler"
    assert not torch.equal(model.head.kernel, before.head.kernel)


@pytest.mark.slow
def test_a_run_in_fp16_goes_on_with_its_scale(noise_faces, tmp_path):
    whole, _ = trained(tmp_path / "whole", noise_faces, 2.0**12)
    trained(tmp_path / "part", noise_faces, 2.0**12, checkpoint_every_n_steps=2)
    (tmp_path / "part" / "last.ckpt").unlink()
    rest, trainer = trained(tmp_path / "part", noise_faces, 1.0, tmp_path / "part" / "last.ckpt.previous")
    assert trainer.precision_plugin.scaler.get_scale() >= 2.0**12
    torch.testing.assert_close(state(rest), state(whole), rtol=0, atol=0)


@pytest.mark.gpu
def test_fp16_on_a_gpu_learns_with_losses_in_float32(noise_faces, tmp_path):
    model, _, trainer = fit(tmp_path, data_root=noise_faces, gpus=1, precision="16", **OPTIONS | {"epochs": 8})
    rows = [row for row in metrics(tmp_path) if "train_loss" in row]
    assert rows[-1]["train_loss"] < rows[0]["train_loss"]
    assert trainer.precision_plugin.scaler.get_scale() > 0
    assert all(torch.isfinite(value).all() for value in state(model).values())
    assert {parameter.dtype for name, parameter in model.named_parameters() if "class_emb" not in name} == {
        torch.float32
    }
