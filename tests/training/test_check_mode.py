"""--check_mode: one process and two ranks take the same course."""

from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from short_runs import fit, metrics, on_two_ranks, state, write_faces
from torch import nn

from cli.checkpoints import load_pretrained_model

COMMON = {
    **{"check_mode": True, "batch_size": 8, "lr": 2e-3, "weight_decay": 0.01, "gradient_clip_val": 5.0},
    **{"adaface_loss_weight": 1.0, "t_alpha": 0.1, "margin_warmup_epochs": 0.5, "warmup_steps": 2},
}
SPLIT = {**COMMON, "partial_fc_rate": 1.0, "class_embeddings": True, "k_nearest": 3, "visibility_gradient": True}
DENSE = {**COMMON, "occlusion_method": "scaling", "qaconv_score": "weighted", "qaconv_channels": 6}
ADAPTERS = {**DENSE, "lora_rank": 2, "lora_by_quality": True}
LOSSES = {f"train_{name}loss" for name in ("", "head_", "pairwise_", "triplet_", "occlusion_")}


class AfterEachStep(pl.Callback):
    """Keep the names of the modules that are in eval mode after each step."""

    def __init__(self):
        self.at_rest = []

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        leaves = {name: part for name, part in module.named_modules() if not list(part.children())}
        self.at_rest.append({name for name, part in leaves.items() if not part.training})


def course(folder, options):
    """Train on this rank; the first one returns what was logged."""
    fit(Path(folder), **options)
    return [] if not (Path(folder) / "metrics.csv").exists() else metrics(Path(folder))


def check_same_course(folder, options, num_steps):
    """Train on one rank and on two and compare what is logged of the training: float32 anywhere would show."""
    for name in ("one", "two"):
        (folder / name).mkdir()
    together, _ = on_two_ranks(course, str(folder / "two"), options)
    alone = course(str(folder / "one"), options)
    alone, together = ([row for row in rows if "train_loss" in row] for rows in (alone, together))
    assert [row["step"] for row in alone] == [row["step"] for row in together] == list(range(1, num_steps + 1))
    names = {name for name in alone[0] if name.startswith("train_")} | {"grad_norm"}
    assert names >= LOSSES
    for name in sorted(names):
        first, second = (torch.tensor([row[name] for row in rows], dtype=torch.float64) for rows in (alone, together))
        torch.testing.assert_close(second, first, rtol=0, atol=1e-9, msg=lambda text, name=name: f"{name}: {text}")
        assert name.endswith("acc") or first.unique().numel() > num_steps // 2, f"{name} hardly moves: {first}"


@pytest.mark.flag("check_mode")
def test_in_check_mode_two_ranks_follow_the_losses_of_one_process(noise_faces, tmp_path):
    check_same_course(tmp_path, {**SPLIT, "data_root": noise_faces}, num_steps=4)


@pytest.mark.slow
@pytest.mark.parametrize("options", [SPLIT, DENSE, ADAPTERS], ids=["split", "dense", "adapters"])
def test_in_check_mode_two_ranks_follow_the_losses_of_one_process_for_56_steps(tmp_path, options):
    faces = str(write_faces(tmp_path, images=28))
    check_same_course(tmp_path, {**options, "epochs": 2, "data_root": faces}, num_steps=56)


@pytest.mark.slow
def test_in_check_mode_two_ranks_find_the_neighbours_of_one_process(noise_faces, tmp_path):
    options = {**DENSE, "sampler": "graph", "epochs": 2, "data_root": noise_faces}
    check_same_course(tmp_path, options, num_steps=16)


def test_check_mode_trains_in_float64_with_norms_and_dropout_at_rest(noise_faces, tmp_path):
    modes = AfterEachStep()
    model, _, trainer = fit(tmp_path, modes, data_root=noise_faces, check_mode=True, class_embeddings=True, k_nearest=2)
    assert trainer.precision == "64-true"
    assert {p.dtype for p in model.parameters()} == {torch.float64}
    resting = [part for part in model.modules() if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d | nn.Dropout)]
    assert len(modes.at_rest) == 2 and all(len(names) == len(resting) > 20 for names in modes.at_rest)
    assert {"model.output_layer.1", "matcher.bn", "matcher.logit_bn", "occlusion_head.layers.1"} <= modes.at_rest[0]
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)["state_dict"]
    assert saved["matcher.bn.num_batches_tracked"] == saved["model.body.0.res_layer.0.num_batches_tracked"] == 0
    assert saved["heads.0.batch_mean"] != 20, "AdaFace's statistics follow the batches"


@pytest.mark.slow
def test_a_checkpoint_of_check_mode_is_evaluated_in_float32_and_resumed_to_the_same_bits(noise_faces, tmp_path):
    options = {**COMMON, "class_embeddings": True, "k_nearest": 2, "epochs": 2, "data_root": noise_faces}
    (tmp_path / "again").mkdir()
    whole, _, _ = fit(tmp_path, save_all_models=True, **options)
    resumed, _, _ = fit(tmp_path / "again", ckpt_path=tmp_path / "epoch_000.ckpt", **options)
    torch.testing.assert_close(state(resumed), state(whole), rtol=0, atol=0)
    model = load_pretrained_model(tmp_path / "last.ckpt")
    assert model.dtype == model.head.kernel.dtype == torch.float32
    assert model.describe(torch.zeros(2, 3, 112, 112)).local_map.dtype == torch.float32
