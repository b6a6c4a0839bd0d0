"""Every two options get along: tiny runs over combinations in which each pair of values occurs."""

import math
from pathlib import Path

import pytest
import torch
from covering_array import all_pairs, covering_array, pairs_of
from short_runs import SMALL, fit, metrics, on_two_ranks, state, write_faces
from torch.testing import assert_close

from cli.checkpoints import load_pretrained_model
from config import (
    EPOCH_UNITS,
    HEADS,
    LR_SCHEDULES,
    OCCLUDERS,
    OCCLUSION_HEADS,
    OCCLUSION_LOSSES,
    OCCLUSION_METHODS,
    OPTIMIZERS,
    PAIRWISE_REDUCTIONS,
    QACONV_SCORES,
    SAMPLERS,
    SPLIT_HEADS,
    Config,
)  # fmt: skip
from engine import trainer as trainer_module
from engine.callbacks import PREVIOUS

# The sampler "graph" knows neighbours from the second epoch on.
RUN = {**SMALL, "epochs": 2, "k_nearest": 2, "test_run": True}
BATCHES = 2  # of an epoch
SWITCH = (False, True)

FACTORS = {
    "arch": ("ir_tiny", "mobilefacenet"),
    "head": tuple(HEADS),
    "optimizer": OPTIMIZERS,
    "lr_schedule": LR_SCHEDULES,
    "precision": ("32", "bf16"),
    "accumulate_grad_batches": (1, 2),
    "sampler": SAMPLERS,
    "epoch_by": EPOCH_UNITS,
    "class_embeddings": SWITCH,
    "qaconv_score": QACONV_SCORES,
    "qaconv_channels": (0, 8),
    "occlusion_method": OCCLUSION_METHODS,
    "visibility_gradient": SWITCH,
    "pairwise_reduction": tuple(PAIRWISE_REDUCTIONS),
    "cross_rank_pairs": SWITCH,
    "adaface_loss_weight": (0.0, 0.1),
    "qaconv_loss_weight": (0.0, 0.7),
    "occlusion_loss_weight": (0.0, 0.3),
    "occlusion_loss": tuple(OCCLUSION_LOSSES),
    "occlusion_head": OCCLUSION_HEADS,
    "partial_fc_rate": (0.0, 0.5, 1.0),
    "gradient_clip_val": (0.0, 1.0),
    "warmup_steps": (0, 2),
    "margin_warmup_epochs": (0.0, 1.0),
    "on_nonfinite": ("stop", "skip"),
    "val_check_interval": (0.5, 1.0),
    "val_occlusion": ((), ("block",)),
    "checkpoint_every_n_steps": (0, 1),
    "ema_decay": (0.0, 0.9),
    "activation_checkpointing": SWITCH,
    "occluders": ((), OCCLUDERS),
    "low_res_augmentation_prob": (0.0, 1.0),
    "crop_augmentation_prob": (0.0, 1.0),
    "photometric_augmentation_prob": (0.0, 1.0),
    "grayscale_augmentation_prob": (0.0, 1.0),
}
# What the ranks exchange, and what keeps them from it.
RANK_FACTORS = {
    name: FACTORS[name]
    for name in (
        "head", "optimizer", "precision", "accumulate_grad_batches", "sampler", "class_embeddings", "occlusion_method",
        "visibility_gradient", "cross_rank_pairs", "adaface_loss_weight", "qaconv_loss_weight", "occlusion_loss_weight",
        "partial_fc_rate", "gradient_clip_val", "ema_decay", "activation_checkpointing",
    )
}  # fmt: skip
RANK_CHUNK = 4  # runs of one pair of processes


def is_legal(options):
    """Return whether the program would take these options."""
    try:
        Config(**{**RUN, **options})
    except ValueError:
        return False
    return True


PAIRS = covering_array(FACTORS, is_legal)
RANK_PAIRS = covering_array(RANK_FACTORS, is_legal)


@pytest.mark.parametrize(("factors", "rows"), [(FACTORS, PAIRS), (RANK_FACTORS, RANK_PAIRS)], ids=["one", "two ranks"])
def test_the_combinations_hold_every_pair_that_the_program_takes(factors, rows):
    assert all(is_legal(row) for row in rows)
    left_out = all_pairs(factors) - set().union(*map(pairs_of, rows))
    assert not any(is_legal(dict(pair)) for pair in left_out)
    # A head that cannot be split goes with neither rate, and a split one with no optimizer but SGD.
    assert len(left_out) <= 4 + 2 * len(set(HEADS) - set(SPLIT_HEADS))


def check_outcome(folder, model):
    """Compare a finished run's last checkpoint with the model, which must be sound."""
    rows = metrics(folder)
    assert all(math.isfinite(value) for row in rows for value in row.values())
    assert any("train_loss" in row for row in rows) and any("val_acc" in row for row in rows)
    loaded, images = load_pretrained_model(folder / "last.ckpt"), torch.rand(4, 3, 112, 112) * 2 - 1
    with torch.inference_mode():
        described = [m.eval().describe(images) for m in (model, loaded)]
    assert_close(tuple(described[0]), tuple(described[1]), rtol=0, atol=0)
    assert all(torch.isfinite(value).all() for value in described[1] if value is not None)


@pytest.mark.slow
@pytest.mark.parametrize("options", PAIRS, ids=lambda options: f"{PAIRS.index(options):02d}")
def test_a_combination_trains_and_its_checkpoints_load_and_go_on_to_the_same_bits(
    noise_faces, tmp_path, monkeypatch, options
):
    monkeypatch.setenv("MASKWISE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(trainer_module, "TEST_RUN_BATCHES", BATCHES)
    model, _, trainer = fit(tmp_path, **{**RUN, **options, "data_root": noise_faces})
    assert trainer.global_step == 2 * BATCHES // options["accumulate_grad_batches"] and model.guard.skipped == 0
    check_outcome(tmp_path, model)
    earlier = (tmp_path / PREVIOUS).rename(tmp_path / "earlier.ckpt")
    resumed, _, _ = fit(tmp_path, ckpt_path=earlier, **{**RUN, **options, "data_root": noise_faces})
    assert_close(state(resumed), state(model), rtol=0, atol=0)


def trained_ranks(folder, faces, rows):
    """Train on this rank with each of the options and return what it ended with."""
    trainer_module.TEST_RUN_BATCHES = BATCHES
    ended = []
    for number, options in enumerate(rows):
        path = Path(folder) / str(number)
        path.mkdir(exist_ok=True)
        model, _, trainer = fit(path, **{**RUN, **options, "data_root": faces})
        if trainer.is_global_zero:
            check_outcome(path, model)
        ended.append({name: value for name, value in state(model).items() if not name.startswith("heads.")})
    return ended


@pytest.mark.slow
@pytest.mark.parametrize("start", range(0, len(RANK_PAIRS), RANK_CHUNK))
def test_a_combination_trains_on_two_ranks_which_end_alike(tmp_path, start):
    faces = write_faces(tmp_path / "faces", pairs=7)
    rows = RANK_PAIRS[start : start + RANK_CHUNK]
    first, second = on_two_ranks(trained_ranks, str(tmp_path), str(faces), rows, timeout=600)
    for options, *ends in zip(rows, first, second, strict=True):
        assert_close(*ends, rtol=0, atol=0, msg=lambda message, o=options: f"{o}: {message}")
