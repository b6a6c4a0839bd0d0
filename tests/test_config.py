import argparse
import dataclasses
import sys

import pytest

import config as names
from config import Config, DetectionConfig, add_task_arguments, explicit_flags, get_args
from options.flags import FIXED
from options.overrides import BETWEEN_EPOCHS, NEVER

# The contract of the command line: every flag with its default. Written out, so that a changed default is noticed.
DEFAULTS = {
    "data_root": None, "train_data_path": None, "val_data_path": None, "swap_color_channel": False,
    "val_sets": (), "follow_links": False, "align": "auto", "detector": "mtcnn",
    "use_mxrecord": False, "data_format": None, "pairs": None, "partner": None, "degradation": None,
    "degradation_side": None, "front": None, "front_size": None, "head_views": "lr", "teacher": None,
    "both_gradients": False, "teacher_weight": 0.0, "remember_weight": 0.0, "relation_weight": 0.0,
    "classifier_weight": 0.0, "classifier_temperature": 4.0,
    "paired_weight": 0.0, "info_nce_weight": 0.0, "supcon_weight": 0.0, "info_nce_temperature": 0.07,
    "train_data_subset": None, "max_bad_fraction": 0.001, "custom_num_class": None,
    "val_identities": 0.1, "synthetic_identities": 200, "synthetic_images": 20,
    "epochs": 24, "batch_size": 256, "lr": 0.1, "lr_milestones": (8, 12, 14), "lr_gamma": 0.1, "momentum": 0.9,
    "weight_decay": 5e-4, "accumulate_grad_batches": 1, "gradient_clip_val": 0.0, "warmup_steps": 0, "seed": 42,
    "val_check_interval": 1.0, "check_val_every_n_epoch": 1, "sampler": "pk", "epoch_by": "images", "optimizer": "sgd",
    "lr_schedule": "multistep", "margin_warmup_epochs": 0.0, "checkpoint_every_n_steps": 0, "keep_every_n_epochs": 0,
    "lr_floor": 0.0, "lr_factors": (), "penalty": (), "stages": (), "patience": 0,
    "data": (), "data_balance": 0.5, "merge_identities": None,
    "curriculum": "none", "curriculum_epochs": (0.0, 0.0), "curriculum_floor": 0.1, "curriculum_gamma": 1.0,
    "epoch_share": 1.0, "difficulty": None,
    "ema_decay": 0.0, "activation_checkpointing": False, "channels_last": True,
    "on_nonfinite": "stop", "max_skipped_steps": 100, "arch": "ir_50",
    "embedding_size": 512, "head": "adaface", "head_start": "random",
    "m": None, "h": None, "s": 64.0, "t_alpha": 0.01, "partial_fc_rate": 0.0, "color_space": None,
    "lora_rank": 0, "lora_alpha": None, "lora_layers": (), "lora_dropout": 0.0, "lora_by_quality": False,
    "modulator": (), "modulator_weight": 0.1,
    "qaconv_channels": 0,
    "qaconv_score": "bn_fc", "class_embeddings": False, "k_nearest": 32, "cross_rank_pairs": False,
    "adaface_loss_weight": 0.1,
    "qaconv_loss_weight": 0.7, "occlusion_loss_weight": 0.3, "occlusion_loss": "mse", "occlusion_head": "plain",
    "triplet_weight": 0.5,
    "class_weight": None, "triplet_margin": 1.0,
    "pairwise_reduction": "ranking", "occlusion_method": "masking", "visible_from": 0.2, "occlusion_prob": 0.5,
    "occluders": names.OCCLUDERS, "visibility_gradient": False, "val_occlusion": names.OCCLUDERS,
    "adaface_eval_weight": 0.7, "qaconv_eval_weight": 0.3, "score_normalization": "visibility", "fars": (),
    "anonymous": False,
    "low_res_augmentation_prob": 0.0,
    "crop_augmentation_prob": 0.0, "photometric_augmentation_prob": 0.0, "grayscale_augmentation_prob": 0.0,
    "gpus": 1, "num_workers": 2,
    "precision": None, "use_16bit": False, "threads": 0, "num_processes": 1,
    "distributed_backend": "ddp", "compile": False,
    "prefix": "maskwise", "monitor": "val_acc", "log_every_n_steps": 50, "heartbeat_seconds": 60.0,
    "status_seconds": 30.0,
    "save_all_models": False, "freeze": (), "head_only": False, "load": "all",
    "tensorboard": False,
    "wandb": "disabled", "wandb_project": "maskwise", "wandb_entity": None, "wandb_name": None,
    "wandb_artifacts": False,
    "resume_from_checkpoint": None, "override": (), "requeue": False, "start_from_model_statedict": None,
    "evaluate": False, "check_mode": False, "fast_dev_run": False, "test_run": False,
}  # fmt: skip

# A word for each flag that takes one, and the value it must become; every one differs from the default.
GIVEN = {
    "data_root": ("faces", "faces"), "train_data_path": ("train", "train"), "val_data_path": ("sets", "sets"),
    "val_sets": ("mine,a/b.bin", ("mine", "a/b.bin")), "fars": ("0.5,1e-3", (0.5, 0.001)),
    "align": ("yes", "yes"), "detector": ("yunet.onnx", "yunet.onnx"),
    "train_data_subset": ("some.txt", "some.txt"), "max_bad_fraction": ("0.01", 0.01),
    "custom_num_class": ("85742", 85742), "val_identities": ("0.25", 0.25), "synthetic_identities": ("40", 40),
    "synthetic_images": ("8", 8), "epochs": ("26", 26), "batch_size": ("64", 64), "lr": ("2e-3", 0.002),
    "lr_milestones": ("12,20,24", (12, 20, 24)), "lr_gamma": ("0.5", 0.5), "momentum": ("0.8", 0.8),
    "weight_decay": ("0", 0.0), "accumulate_grad_batches": ("2", 2), "gradient_clip_val": ("5", 5.0),
    "warmup_steps": ("100", 100), "ema_decay": ("0.999", 0.999), "seed": ("7", 7), "val_check_interval": ("0.5", 0.5),
    "check_val_every_n_epoch": ("2", 2),
    "sampler": ("graph", "graph"), "epoch_by": ("identities", "identities"),
    "optimizer": ("adamw", "adamw"), "lr_schedule": ("cosine", "cosine"), "lr_floor": ("0.05", 0.05),
    "lr_factors": ("model.*=0.1,heads.*=10", ("model.*=0.1", "heads.*=10")),
    "data": ("web=faces:2", ("web=faces:2",)), "data_balance": ("1", 1.0), "merge_identities": ("same.txt", "same.txt"),
    "curriculum": ("contrast", "contrast"), "curriculum_epochs": ("2,8", (2.0, 8.0)), "curriculum_floor": ("0", 0.0),
    "curriculum_gamma": ("2", 2.0), "epoch_share": ("0.5", 0.5), "difficulty": ("embedded", "embedded"),
    "stages": ("24:model.*=1e-4,heads.*", ("24:model.*=1e-4,heads.*",)), "patience": ("10", 10),
    "penalty": ("model.*=l1:1e-4:prox,heads.*=l2:1", ("model.*=l1:1e-4:prox", "heads.*=l2:1")),
    "margin_warmup_epochs": ("1.5", 1.5), "checkpoint_every_n_steps": ("500", 500), "keep_every_n_epochs": ("4", 4),
    "on_nonfinite": ("skip", "skip"), "max_skipped_steps": ("7", 7), "arch": ("ir_tiny", "ir_tiny"),
    "embedding_size": ("128", 128), "head": ("arcface", "arcface"),
    "head_start": ("class_means", "class_means"), "m": ("0.3", 0.3), "h": ("0", 0.0),
    "s": ("32", 32.0), "t_alpha": ("0.99", 0.99), "partial_fc_rate": ("0.1", 0.1),
    "lora_rank": ("8", 8), "lora_alpha": ("16", 16.0), "lora_layers": ("body.1.*,tail", ("body.1.*", "tail")),
    "lora_dropout": ("0.1", 0.1), "modulator": ("quality,visible", ("quality", "visible")),
    "modulator_weight": ("1", 1.0),
    "data_format": ("records", "records"), "color_space": ("bgr", "bgr"), "qaconv_channels": ("64", 64),
    "qaconv_score": ("weighted", "weighted"), "k_nearest": ("5", 5), "adaface_loss_weight": ("1", 1.0),
    "qaconv_loss_weight": ("0", 0.0), "occlusion_loss_weight": ("0.1", 0.1), "triplet_weight": ("0.2", 0.2),
    "class_weight": ("0.3", 0.3), "occlusion_loss": ("bce", "bce"), "occlusion_head": ("fine", "fine"),
    "triplet_margin": ("16", 16.0), "pairwise_reduction": ("row_sum", "row_sum"),
    "occlusion_method": ("scaling", "scaling"), "visible_from": ("0.3", 0.3), "occlusion_prob": ("1", 1.0),
    "occluders": ("hand,scarf", ("hand", "scarf")), "val_occlusion": ("none", ()), "adaface_eval_weight": ("1", 1.0),
    "qaconv_eval_weight": ("2", 2.0), "score_normalization": ("none", "none"),
    "low_res_augmentation_prob": ("0.2", 0.2),
    "crop_augmentation_prob": ("0.2", 0.2), "photometric_augmentation_prob": ("0.2", 0.2),
    "grayscale_augmentation_prob": ("0.2", 0.2), "gpus": ("0", 0),
    "num_workers": ("0", 0), "precision": ("bf16", "bf16"), "threads": ("3", 3),
    "num_processes": ("2", 2), "prefix": ("trial", "trial"),
    "monitor": ("val_qaconv_acc", "val_qaconv_acc"), "log_every_n_steps": ("1", 1), "heartbeat_seconds": ("5", 5.0),
    "status_seconds": ("5", 5.0),
    "wandb": ("offline", "offline"), "wandb_project": ("masks", "masks"), "wandb_entity": ("team", "team"),
    "wandb_name": ("first", "first"), "freeze": ("model.*,heads.*", ("model.*", "heads.*")),
    "load": ("backbone", "backbone"),
    "override": ("lr=0.01,lr_milestones=4,8", ("lr=0.01", "lr_milestones=4,8")),
    "resume_from_checkpoint": ("last.ckpt", "last.ckpt"), "start_from_model_statedict": ("w.pt", "w.pt"),
    "pairs": ("cameras", "cameras"), "partner": ("dsr", "dsr"), "degradation": ("second_order", "second_order"),
    "degradation_side": ("16", 16), "front": ("bicubic", "bicubic"), "front_size": ("24", 24),
    "head_views": ("both", "both"), "teacher": ("t.pt", "t.pt"), "teacher_weight": ("1", 1.0),
    "remember_weight": ("0.5", 0.5), "relation_weight": ("2", 2.0), "classifier_weight": ("3", 3.0),
    "classifier_temperature": ("2", 2.0), "paired_weight": ("0.3", 0.3),
    "info_nce_weight": ("0.2", 0.2), "supcon_weight": ("0.1", 0.1), "info_nce_temperature": ("0.1", 0.1),
}  # fmt: skip
# What belongs to pairs of views needs some, and what learns from a teacher one.
_VIEWS = ["--degradation", "first_order"]
_STARTED = [*_VIEWS, "--start_from_model_statedict", "w.pt"]
NEED_VIEWS = {
    "partner": ["--pairs", "cameras"],
    "degradation_side": _VIEWS,
    "front": ["--degradation", "first_order", "--degradation_side", "16"],
    "front_size": [*_VIEWS, "--front", "bicubic", "--degradation_side", "16"],
    "both_gradients": [*_VIEWS, "--paired_weight", "1"],
    "teacher": [*_VIEWS, "--teacher_weight", "1", "--start_from_model_statedict", "w.pt"],
    **dict.fromkeys(("head_views", "paired_weight", "info_nce_weight", "supcon_weight"), _VIEWS),
    **dict.fromkeys(("teacher_weight", "remember_weight", "relation_weight", "classifier_weight"), _STARTED),
}
SWITCHES = [name for name, default in DEFAULTS.items() if isinstance(default, bool)]


def refusal(capsys, argv):
    """Return the one line on stderr of a command that is refused with exit code 2."""
    with pytest.raises(SystemExit) as stop:
        get_args(argv)
    captured = capsys.readouterr()
    assert stop.value.code == 2
    assert captured.out == ""
    assert captured.err.count("\n") == 1 and captured.err.endswith("\n")
    return captured.err


def test_defaults_are_the_documented_ones():
    assert dataclasses.asdict(get_args([])) == DEFAULTS
    assert Config() == get_args([])


def test_samples_of_this_file_cover_every_flag():
    assert GIVEN.keys() | set(SWITCHES) | {"distributed_backend"} == DEFAULTS.keys()


@pytest.mark.parametrize("name", GIVEN)
def test_a_flag_sets_its_option_and_no_other_in_both_spellings(name):
    word, value = GIVEN[name]
    assert value != DEFAULTS[name]
    needs = {
        "class_weight": ["--class_embeddings"],
        "lr_floor": ["--lr_schedule", "cosine"],
        "head_start": ["--start_from_model_statedict", "w.pt"],
        "merge_identities": ["--data", "web=faces"],
        "curriculum": ["--curriculum_epochs", "0,8"],
        **{key: ["--lora_rank", "8"] for key in ("lora_alpha", "lora_layers", "lora_dropout")},
        "difficulty": ["--curriculum", "norm", "--curriculum_epochs", "0,8"],
    }
    needed = needs.get(name, []) or NEED_VIEWS.get(name, [])
    for spelling in (f"--{name}", f"--{name.replace('_', '-')}"):
        changed = dataclasses.asdict(get_args([*needed, spelling, word]))
        assert changed == dataclasses.asdict(get_args(needed)) | {name: value}
        assert type(changed[name]) is type(value)


@pytest.mark.parametrize("name", SWITCHES)
def test_a_switch_turns_on_and_off_in_both_spellings(name):
    needed = ["--start_from_model_statedict", "w.pt"] if name == "evaluate" else []
    needed = needed or NEED_VIEWS.get(name, []) or ["--lora_rank", "8"] * (name == "lora_by_quality")
    for spelling in (name, name.replace("_", "-")):
        assert getattr(get_args([*needed, f"--{spelling}"]), name) is True
        off = "no_" + name if "_" in spelling else "no-" + spelling
        assert getattr(get_args([*needed, f"--{name}", f"--{off}"]), name) is False


def test_overrides_may_be_given_several_times():
    given = get_args(["--override", "lr=0.01,batch_size=8", "--override", "occluders=hand,cap"])
    assert given.override == ("lr=0.01", "batch_size=8", "occluders=hand,cap")


def test_what_can_be_overridden_is_an_option_that_is_fixed():
    options = [*Config.options(), *DetectionConfig.options()]
    fixed = {option.name for option in options if option.spec.on_resume == FIXED}
    assert BETWEEN_EPOCHS | NEVER.keys() <= fixed and not BETWEEN_EPOCHS & NEVER.keys()


def test_all_and_none_are_lists_of_occluders():
    assert get_args(["--occluders", "all"]).occluders == names.OCCLUDERS
    assert get_args(["--occluders", "none"]).occluders == ()
    assert get_args(["--lr_milestones", "none"]).lr_milestones == ()


def test_the_command_line_is_the_default_source(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["main.py", "--epochs", "3"])
    assert get_args().epochs == 3
    assert explicit_flags() == {"epochs"}


def test_task_arguments_fit_any_parser():
    parser = argparse.ArgumentParser()
    parser.add_argument("--mine", default=1)
    add_task_arguments(parser)
    assert vars(parser.parse_args([])) == DEFAULTS | {"mine": 1}
    assert parser.parse_args(["--train-data-path", "x"]).train_data_path == "x"


def test_help_names_every_flag_once_and_says_what_h_does(capsys):
    with pytest.raises(SystemExit) as stop:
        get_args(["--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    for name in DEFAULTS:
        assert f"  --{name}" in text
        assert name.replace("_", "-") == name or f"--{name.replace('_', '-')}" not in text
    assert "h = 0 turns adaface into cosface" in " ".join(text.split())
    for title in ("Data:", "Training:", "Model:", "Losses:", "Occlusion:", "Augmentation:"):
        assert f"\n{title}\n" in text


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        ("--arch ir_51", ("--arch", "'ir_51'", *names.ARCHS)),
        ("--head sphereface", ("--head", *names.HEADS)),
        ("--occluders hand,umbrella", ("--occluders", "'umbrella'", *names.OCCLUDERS)),
        ("--val_occlusion umbrella", ("--val_occlusion", "'umbrella'")),
        ("--batch_size 30", ("--batch_size", "divisible by 4", "28", "32")),
        ("--batch_size 0", ("--batch_size", "[4, inf)", "got 0")),
        ("--lr 0", ("--lr", "(0, inf)")),
        ("--lr nan", ("--lr", "got nan")),
        ("--s inf", ("--s", "got inf")),
        ("--lr fast", ("--lr", "'fast'")),
        ("--epochs 1.5", ("--epochs", "'1.5'")),
        ("--occlusion_prob 1.01", ("--occlusion_prob", "[0, 1]", "got 1.01")),
        ("--val_identities 1", ("--val_identities", "[0, 1)")),
        ("--qaconv_loss_weight -1", ("--qaconv_loss_weight", "[0, inf)")),
        ("--epochs 10 --check_val_every_n_epoch 4", ("--check_val_every_n_epoch 4", "--epochs 10")),
        ("--lr_milestones 12,8", ("--lr_milestones", "12,8")),
        ("--fars 0.1,0", ("--fars", "[1e-12, 1]", "0")),
        ("--fars 1e-320", ("--fars", "[1e-12, 1]", "1e-320")),
        ("--lr_milestones 8,x", ("--lr_milestones", "8,x")),
        ("--head arcface --h 0.3", ("--h", "adaface", "arcface")),
        ("--partial_fc_rate 0.5 --head magface", ("--partial_fc_rate", "--head magface", *names.SPLIT_HEADS)),
        ("--partial_fc_rate 1.1", ("--partial_fc_rate", "[0, 1]", "got 1.1")),
        ("--partial_fc_rate 0.5 --optimizer adamw", ("--partial_fc_rate", "--optimizer sgd", "adamw")),
        ("--sampler graph --epoch_by identities", ("--epoch_by identities", "--sampler pk")),
        ("--sampler shuffle --epoch_by identities", ("--epoch_by identities", "--sampler pk")),
        ("--adaface_loss_weight 0 --qaconv_loss_weight 0 --occlusion_loss_weight 0", ("--qaconv_loss_weight", "0")),
        ("--adaface_eval_weight 0 --qaconv_eval_weight 0", ("--adaface_eval_weight", "--qaconv_eval_weight")),
        ("--prefix a/b", ("--prefix", "'a/b'")),
        ("--use_16bit --precision 32", ("--use_16bit", "--precision 32")),
        ("--use_16bit --gpus 0 --precision 16", ("--use_16bit", "bf16", "--precision 16")),
        ("--precision 16 --gpus 0", ("--precision 16", "GPU", "bf16")),
        ("--check_mode --precision bf16", ("--check_mode", "float64", "--precision bf16")),
        ("--check_mode --use_16bit", ("--check_mode", "float64", "--use_16bit")),
        ("--check_mode --partial_fc_rate 0.5", ("--check_mode", "--partial_fc_rate 0.5", "0 or 1")),
        ("--evaluate", ("--evaluate", "--resume_from_checkpoint", "--start_from_model_statedict")),
        (
            "--resume_from_checkpoint a --start_from_model_statedict b",
            ("--resume_from_checkpoint", "conflicts", "--start_from_model_statedict"),
        ),
        ("--fast_dev_run --test_run", ("--fast_dev_run", "--test_run")),
        ("--distributed_backend horovod", ("--distributed_backend", "horovod", "ddp")),
        ("--epoch 3", ("--epoch",)),  # never read as an abbreviation of --epochs
        ("--epochs", ("--epochs",)),
        ("stray", ("stray",)),
    ],
)
def test_bad_flags_are_refused_in_one_line(argv, expected, capsys):
    line = refusal(capsys, argv.split())
    assert line.startswith("main.py: error: ")
    for word in expected:
        assert word in line


def test_a_config_refuses_at_birth_what_the_flags_refuse():
    for wrong in (
        {"batch_size": 30},
        {"lr": float("nan")},
        {"arch": "resnet"},
        {"epochs": 1.5},
        {"epochs": True},
        {"compile": 1},
        {"occluders": "hand"},
        {"occluders": ("umbrella",)},
        {"lr_milestones": (1.5,)},
        {"lr": None},
        {"seed": (1,)},
    ):
        (name,) = wrong
        with pytest.raises(ValueError, match=f"--{name}"):
            Config(**wrong)


@pytest.mark.parametrize("name", [name for name in GIVEN if isinstance(DEFAULTS[name], (int, float))])
def test_every_number_has_bounds(name):
    kind = type(DEFAULTS[name])
    with pytest.raises(ValueError, match=f"--{name} must be in"):
        Config(**{name: kind(-1)})


def test_config_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().lr = 1.0


@pytest.mark.flag("distributed_backend")
@pytest.mark.parametrize("word", ["dp", "DP", "ddp2", "DDP2"])
def test_gone_backends_are_taken_as_ddp_with_one_line(word, caplog):
    assert get_args(["--distributed_backend", word]).distributed_backend == "ddp"
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert word.lower() in record.getMessage() and "ddp is used" in record.getMessage()


@pytest.mark.parametrize("word", ["ddp", "DDP"])
def test_ddp_is_taken_in_silence(word, caplog):
    assert get_args(["--distributed_backend", word]).distributed_backend == "ddp"
    assert not caplog.records


@pytest.mark.parametrize(
    ("options", "on_gpu", "on_cpu"),
    [
        ({}, "32", "32"),
        ({"precision": "32"}, "32", "32"),
        ({"precision": "bf16"}, "bf16", "bf16"),
        ({"precision": "16"}, "16", None),
        ({"use_16bit": True}, "16", "bf16"),
        ({"use_16bit": True, "precision": "16"}, "16", None),
        ({"use_16bit": True, "precision": "bf16"}, None, "bf16"),
    ],
)
def test_precision_by_device(options, on_gpu, on_cpu):
    config = Config(**options)
    for gpu, expected in ((True, on_gpu), (False, on_cpu)):
        if expected is None:
            with pytest.raises(ValueError, match="--precision"):
                config.precision_on(gpu)
        else:
            assert config.precision_on(gpu) == expected
