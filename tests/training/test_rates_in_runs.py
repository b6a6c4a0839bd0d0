"""Rates and penalties by pattern in runs: what is logged, what a checkpoint keeps, and what goes on from it."""

import pytest
import torch
from short_runs import fit, metrics, state
from untrained import SMALL

from cli.checkpoints import read_checkpoint, read_to_resume
from config import Config, PretrainingConfig
from engine.optim import FACTOR
from options.names import ONLY_DATASET
from tasks.moco.module import Pretrainer
from train_val import Recognizer

OPTIONS = {
    "lr_factors": ("model.*=0.5", "heads.*=2"), "penalty": ("model.body.*.weight=group:1e-3:prox",),
    "lr_schedule": "cosine", "lr_floor": 0.1, "epochs": 2, "keep_every_n_epochs": 1, "batch_size": 8,
    "class_embeddings": True, "k_nearest": 3, "partial_fc_rate": 1.0,
}  # fmt: skip


@pytest.mark.slow
def test_a_run_goes_on_from_a_checkpoint_to_the_same_bits(noise_faces, tmp_path):
    whole, half = tmp_path / "whole", tmp_path / "half"
    whole.mkdir(), half.mkdir()
    options = {"data_root": noise_faces, **OPTIONS}
    expected, _, _ = fit(whole, **options)
    assert read_to_resume(whole / "last.ckpt")["optimizer_states"][0]["param_groups"][2][FACTOR] == 0.5
    resumed, _, _ = fit(half, ckpt_path=whole / "epoch_000.ckpt", **options)
    torch.testing.assert_close(state(resumed), state(expected), rtol=0, atol=0)
    last = metrics(whole)[-1]
    assert metrics(half)[-1] == last
    assert last["lr/heads.*"] == pytest.approx(2 * last["lr"]) and last["lr/model.*"] == pytest.approx(last["lr"] / 2)
    assert "zero_groups/model.body.*.weight" in last


@pytest.mark.slow
def test_stages_and_patience_leave_checkpoints_that_a_run_goes_on_from(noise_faces, tmp_path):
    stages = ("1:heads.*=0.05", "1:model.*=1e-3,heads.*,matcher.*,occlusion_head.*")
    options = {"stages": stages, "patience": 5, "epochs": 2, "keep_every_n_epochs": 1, "batch_size": 8}
    (tmp_path / "on").mkdir()
    expected, _, _ = fit(tmp_path, data_root=noise_faces, **options)
    between = read_to_resume(tmp_path / "epoch_000.ckpt")
    assert read_to_resume(tmp_path / "last.ckpt")["callbacks"]["Patience"]["best"] is not None
    assert read_checkpoint(tmp_path / "best.ckpt")["global_step"] in (0, 4, 8)
    trained = {name for name, value in between["state_dict"].items() if not value.equal(expected.state_dict()[name])}
    assert {"model.input_layer.0.weight", "heads.0.kernel"} <= trained
    resumed, _, _ = fit(tmp_path / "on", ckpt_path=tmp_path / "epoch_000.ckpt", data_root=noise_faces, **options)
    torch.testing.assert_close(state(resumed), state(expected), rtol=0, atol=0)
    assert {"lr/model.*", "lr/heads.*"} <= set(metrics(tmp_path)[-1]) and metrics(tmp_path)[0]["step"] == 0


@pytest.mark.parametrize(
    ("options", "refusal"),
    [
        ({"lr_factors": ("backbone.*=0.1",)}, "--lr_factors: no parameter that is trained is called 'backbone.*'"),
        ({"lr_factors": ("model.*=0.1",), "head_only": True}, "--lr_factors: no parameter that is trained is called"),
        ({"lr_factors": ("heads.0.kernel=2",), "partial_fc_rate": 1.0}, "--lr_factors: no parameter that is trained"),
        ({"stages": ("24:nothing",)}, "--stages: no parameter that is trained is called 'nothing'"),
        ({"penalty": ("nothing=l1:1",)}, "--penalty: no parameter that is trained is called 'nothing'"),
        ({"penalty": ("*=l1:1",), "class_embeddings": True}, "class_embeddings.weight is moved row by row"),
        ({"penalty": ("heads.*=l1:1",), "partial_fc_rate": 1.0}, "heads.0.weight is moved row by row"),
    ],
)
def test_patterns_are_refused_before_a_run_begins(options, refusal):
    with torch.device("meta"), pytest.raises(ValueError) as caught:
        Recognizer(Config(**{**SMALL, **options}).to_dict(), {ONLY_DATASET: 4})
    assert refusal in str(caught.value) and "\n" not in str(caught.value)


def test_a_pretraining_refuses_them_too():
    with torch.device("meta"), pytest.raises(ValueError, match=r"--lr_factors: no parameter that is trained .*'model"):
        Pretrainer(PretrainingConfig(**SMALL, lr_factors=("model.*=2",)).to_dict(), 8)
