"""The last group of accumulated batches of an epoch may be shorter than the others: it is divided by what it has."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from short_runs import build, fit, metrics, on_two_ranks, state

from engine.module import Step

MATCHED = {"class_embeddings": True, "k_nearest": 2, "partial_fc_rate": 0.5, "gradient_clip_val": 5.0}


def course(folder, options):
    """Train and return the norms of the gradients, the logged losses and the last weights."""
    model, _, trainer = fit(Path(folder), **options)
    rows = metrics(Path(folder)) if trainer.is_global_zero else []
    numbers = [[row[name] for name in ("grad_norm", "train_loss")] for row in rows if "grad_norm" in row]
    return {"numbers": torch.tensor(numbers), "weights": state(model)}


@pytest.mark.parametrize("options", [{}, MATCHED], ids=["dense", "sparse, split and clipped"])
@pytest.mark.parametrize(("batch_size", "batches"), [(16, 2), (32, 1)])
def test_a_group_that_is_short_makes_the_step_of_a_whole_group_of_its_size(
    noise_faces, tmp_path, options, batch_size, batches
):
    ends = []
    for size in (batches, 4):
        folder = tmp_path / str(size)
        folder.mkdir()
        options = options | {"data_root": noise_faces, "batch_size": batch_size, "accumulate_grad_batches": size}
        ends.append(course(folder, options))
    assert len(ends[0]["numbers"]) == 1
    torch.testing.assert_close(ends[1], ends[0], rtol=0, atol=0)


@pytest.mark.slow
def test_two_ranks_divide_a_short_group_by_what_it_has(noise_faces, tmp_path):
    ends = []
    for size in (2, 4):
        folder = tmp_path / str(size)
        folder.mkdir()
        options = MATCHED | {"data_root": noise_faces, "accumulate_grad_batches": size}
        ends.append(on_two_ranks(course, str(folder), options))
    torch.testing.assert_close(ends[1], ends[0], rtol=0, atol=0)


def test_the_norm_of_a_short_group_s_gradient_is_that_of_the_mean_over_its_batches(noise_faces, tmp_path):
    """Without running statistics in the loss the gradient of a batch can be had again."""
    model, datamodule, trainer = build(
        tmp_path, data_root=noise_faces, batch_size=8, accumulate_grad_batches=3, lr=1e-12, head="arcface"
    )
    trainer.fit(model, datamodule=datamodule)
    assert trainer.num_training_batches == 4
    norms = [row["grad_norm"] for row in metrics(tmp_path) if "grad_norm" in row]
    model.train()
    datamodule.load_state_dict({"seed": 42, "epoch": 0, "batches_done": 0})
    gradients = []
    for batch_idx, batch in enumerate(datamodule.train_dataloader()):
        total = model._forward(batch, batch_idx, Step(batch_idx // 3)).total()
        parameters = [p for p in model.parameters() if p.requires_grad]
        found = torch.autograd.grad(total, parameters, allow_unused=True)
        gradients.append(torch.cat([g.flatten() for g in found if g is not None]))
    assert norms == pytest.approx([torch.stack(gradients[:3]).mean(0).norm().item(), gradients[3].norm().item()], 1e-3)


@pytest.mark.parametrize(("size", "batches", "shares"), [(1, 3, [1, 1, 1]), (3, 5, [1, 1, 1, 1.5, 1.5]), (4, 1, [4])])
def test_the_batches_of_a_step_count_alike(noise_faces, tmp_path, size, batches, shares):
    model, _, _ = build(tmp_path, data_root=noise_faces)
    model.trainer = SimpleNamespace(accumulate_grad_batches=size, num_training_batches=batches)
    assert [model._share_of_step(batch_idx) for batch_idx in range(batches)] == shares


def test_a_run_stopped_before_a_short_group_ends_with_the_same_bits(noise_faces, tmp_path):
    options = {"data_root": noise_faces, "batch_size": 8, "accumulate_grad_batches": 3, "checkpoint_every_n_steps": 1}
    ends = []
    for name, checkpoint in (("whole", None), ("resumed", tmp_path / "whole" / "last.ckpt.previous")):
        (tmp_path / name).mkdir()
        model, _, trainer = fit(tmp_path / name, ckpt_path=checkpoint, **options)
        ends.append(state(model))
        assert trainer.global_step == 2
    saved = torch.load(tmp_path / "whole" / "last.ckpt.previous", weights_only=True)
    assert saved["global_step"] == 1
    torch.testing.assert_close(ends[1], ends[0], rtol=0, atol=0)
