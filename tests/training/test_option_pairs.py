"""Every two options get along: tiny runs over combinations in which each pair of values occurs."""

import math
from functools import cache
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from covering_array import all_pairs, covering_array, pairs_of
from short_runs import SMALL, fit, metrics, on_two_ranks, state, write_faces, write_pairs
from torch.testing import assert_close

from cli.checkpoints import load_pretrained_model
from config import (
    EPOCH_UNITS,
    HEADS,
    OCCLUDERS,
    OCCLUSION_HEADS,
    OCCLUSION_LOSSES,
    OCCLUSION_METHODS,
    OPTIMIZERS,
    PAIRWISE_REDUCTIONS,
    QACONV_SCORES,
    SAMPLERS,
    Config,
)  # fmt: skip
from engine import trainer as trainer_module
from engine.callbacks import PREVIOUS
from options.names import CURRICULA, TOLD_CURRICULA, VIEWS
from tasks.recognition.sharded_head import check_several_sets

# The sampler "graph" knows neighbours from the second epoch on. Class means and a teacher ask for loaded weights.
RUN = {**SMALL, "epochs": 2, "k_nearest": 2, "test_run": True, "curriculum_epochs": (0.0, 2.0)}
RUN |= {"start_from_model_statedict": "what the test says is loaded"}
BATCHES = 2  # of an epoch
SWITCH = (False, True)

# Options that only go together, by names that are factors of their own; {} stands for the folder of the data.
TOGETHER = {
    "source": {
        "degraded": {"data_root": "{}", "degradation": "first_order"},
        "folder": {"data_root": "{}"},
        "pairs": {"pairs": "{}/pairs", "val_data_path": "{}"},
        "sets": {"data": ("web={}:2", "masked={}/other,head=cosface,final_weight=3"), "val_data_path": "{}"},
        "paired sets": {
            "data": ("web={},degradation=second_order", "masked={}/pairs,data_format=pairs,occlusion_prob=0"),
            **{"val_data_path": "{}", "merge_identities": "{}/same.txt"},
        },
    },
    "rates": {
        **{"multistep": {}, "cosine": {"lr_schedule": "cosine"}},
        "floor and factors": {"lr_schedule": "cosine", "lr_floor": 0.1, "lr_factors": ("model.*=0.5",)},
        "stages": {"stages": ("1:model.*,heads.*=0.02", "1:*")},
    },
    "paired": {
        **{"none": {}, "lr": {"paired_weight": 0.3}, "both": {"paired_weight": 0.3, "both_gradients": True}},
    },
    "front": {"none": {}, "bicubic": {"front": "bicubic", "front_size": 32}},
}

FACTORS = {
    **{name: tuple(values) for name, values in TOGETHER.items()},
    "arch": ("ir_tiny", "mobilefacenet"),
    "head": tuple(HEADS),
    "optimizer": OPTIMIZERS,
    "patience": (0, 9),
    "penalty": ((), ("model.*=l1:1e-4:prox",), ("model.*=group:1e-4:ramp_0_2", "model.*=l2:1e-4")),
    "head_start": ("random", "class_means"),
    "curriculum": tuple(name for name in CURRICULA if name not in TOLD_CURRICULA),
    "epoch_share": (1.0, 0.7),
    "head_views": VIEWS,
    "teacher_weight": (0.0, 0.9),
    "remember_weight": (0.0, 0.5),
    "relation_weight": (0.0, 0.5),
    "info_nce_weight": (0.0, 0.2),
    "supcon_weight": (0.0, 0.1),
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
    "channels_last": SWITCH,
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
        "partial_fc_rate", "gradient_clip_val", "ema_decay", "activation_checkpointing", "source", "rates", "paired",
        "penalty", "head_start", "curriculum", "head_views", "teacher_weight", "info_nce_weight", "supcon_weight",
    )
}  # fmt: skip
RANK_CHUNK = 4  # runs of one pair of processes
# To find the combinations takes a dozen seconds, so that it is not done where tests are collected.
NUM_ROWS = {"one": 46, "two ranks": 38}

OF_VIEWS = "front head_views info_nce_weight paired relation_weight remember_weight supcon_weight teacher_weight"
# What has a value that is refused with a value of another.
REFUSED = {
    "source": f"class_embeddings epoch_by low_res_augmentation_prob partial_fc_rate sampler {OF_VIEWS}",
    "low_res_augmentation_prob": OF_VIEWS,
    "epoch_by": "curriculum epoch_share sampler",
    "sampler": "curriculum epoch_share",
    "partial_fc_rate": "head optimizer rates",
}


def is_legal(options):
    """Return whether the program would take these options, with some source of images where none is named."""
    if "source" not in options:
        return any(is_legal({**options, "source": source}) for source in TOGETHER["source"])
    try:
        config = Config(**as_options(options, "faces"))
        if config.data:
            check_several_sets(config, {"web": 2, "masked": 2})
    except ValueError:
        return False
    return True


def as_options(factors, faces):
    """Return the options of a run that a combination stands for, over those of RUN."""
    options = {name: value for name, value in factors.items() if name not in TOGETHER}
    for name, meanings in TOGETHER.items():
        options |= meanings[factors[name]] if name in factors else {}
    return {**RUN, **{name: placed(value, faces) for name, value in options.items()}}


def placed(value, faces):
    if isinstance(value, tuple):
        return tuple(placed(part, faces) for part in value)
    return value.replace("{}", str(faces)) if isinstance(value, str) else value


@cache
def combinations(ranks):
    return covering_array(FACTORS if ranks == "one" else RANK_FACTORS, is_legal)


@pytest.mark.slow
@pytest.mark.parametrize(("ranks", "factors"), [("one", FACTORS), ("two ranks", RANK_FACTORS)])
def test_the_combinations_hold_every_pair_that_the_program_takes(ranks, factors):
    rows = combinations(ranks)
    assert len(rows) == NUM_ROWS[ranks], "write their number into NUM_ROWS"
    assert all(is_legal(row) for row in rows)
    left_out = all_pairs(factors) - set().union(*map(pairs_of, rows))
    assert not any(is_legal(dict(pair)) for pair in left_out)
    names = {frozenset(name for name, _ in pair) for pair in left_out}
    refused = {frozenset((name, other)) for name, others in REFUSED.items() for other in others.split()}
    assert names == {pair for pair in refused if pair <= factors.keys()}


class Loaded(pl.Callback):
    """Say that the weights of this new run were loaded."""

    def setup(self, trainer, module, stage):
        module.loaded = ("backbone",)


def write_sources(root):
    """Write what all of `source` read: people, others of whom one is the same, pairs, and a benchmark."""
    write_faces(root, images=8, pairs=7)
    write_faces(root / "other", identities=4, pairs=0)
    write_pairs(root / "pairs", images=8)
    (root / "same.txt").write_text("web/person_01 = masked/person_02\n", encoding="utf-8")
    return root


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    return write_sources(tmp_path_factory.mktemp("faces"))


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
@pytest.mark.parametrize("number", range(NUM_ROWS["one"]))
def test_a_combination_trains_and_its_checkpoints_load_and_go_on_to_the_same_bits(
    faces, own_cache, tmp_path, monkeypatch, number
):
    monkeypatch.setattr(trainer_module, "TEST_RUN_BATCHES", BATCHES)
    options = as_options(combinations("one")[number], faces)
    model, _, trainer = fit(tmp_path, Loaded(), **options)
    assert trainer.global_step == 2 * BATCHES // options["accumulate_grad_batches"] and model.guard.skipped == 0
    check_outcome(tmp_path, model)
    earlier = (tmp_path / PREVIOUS).rename(tmp_path / "earlier.ckpt")
    resumed, _, _ = fit(tmp_path, ckpt_path=earlier, **options)
    assert_close(state(resumed), state(model), rtol=0, atol=0)


def trained_ranks(folder, faces, rows):
    """Train on this rank with each of the options and return what it ended with."""
    trainer_module.TEST_RUN_BATCHES = BATCHES
    ended = []
    for number, options in enumerate(rows):
        path = Path(folder) / str(number)
        path.mkdir(exist_ok=True)
        model, _, trainer = fit(path, Loaded(), **as_options(options, faces))
        if trainer.is_global_zero:
            check_outcome(path, model)
        ended.append({name: value for name, value in state(model).items() if not name.startswith("heads.")})
    return ended


@pytest.mark.slow
@pytest.mark.parametrize("start", range(0, NUM_ROWS["two ranks"], RANK_CHUNK))
def test_a_combination_trains_on_two_ranks_which_end_alike(tmp_path, start):
    faces = write_sources(tmp_path / "faces")
    rows = combinations("two ranks")[start : start + RANK_CHUNK]
    first, second = on_two_ranks(trained_ranks, str(tmp_path), str(faces), rows, timeout=600)
    for options, *ends in zip(rows, first, second, strict=True):
        assert_close(*ends, rtol=0, atol=0, msg=lambda message, o=options: f"{o}: {message}")
