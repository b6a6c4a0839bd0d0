"""Options that are saved, and what a resumed run makes of them."""

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_config import GIVEN, SWITCHES

import config as names
from config import Config, explicit_flags, get_args
from config import merge_for_resume as merge
from options.flags import FIXED, INVOCATION, MAY_CHANGE

conflicting = (
    "h",
    "classifier_weight",
    "stages",
    "data",
    "merge_identities",
    "curriculum",
    "difficulty",
    "epoch_share",
    "pairs",
    "partner",
    "low_res_augmentation_prob",
    "sampler",
    "optimizer",
    "modulator",
    "start_from_model_statedict",
)
everything = {name: value for name, (_, value) in GIVEN.items() if name not in conflicting}
everything |= dict.fromkeys(
    (name for name in SWITCHES if name not in ("fast_dev_run", "check_mode", "head_only")), True
)


def test_round_trip_through_json_keeps_every_option():
    config = Config(**everything)
    values = config.to_dict()
    assert Config.from_dict(json.loads(json.dumps(values))) == config
    for value in values.values():
        for member in value if type(value) is list else [value]:
            assert type(member) in (bool, int, float, str, type(None))


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "lr": st.floats(1e-9, 1e9),
            "batch_size": st.integers(1, 10**6).map(lambda value: 4 * value),
            "occluders": st.lists(st.sampled_from(names.OCCLUDERS), unique=True).map(tuple),
            "data_root": st.text(),
            "compile": st.booleans(),
        },
    )
)
def test_round_trip_of_any_config(values):
    config = Config(**values)
    assert Config.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_from_dict_refuses_unknown_options_by_name_and_fills_absent_ones():
    with pytest.raises(ValueError, match="unknown options a_flag, another"):
        Config.from_dict({"lr": 0.1, "another": 1, "a_flag": 2})
    assert Config.from_dict({"lr": 0.5, "visible_from": 0.2, "align": "auto"}) == Config(lr=0.5)
    assert Config.from_dict({}).visible_from == 0.5  # what runs did before there was the option
    with pytest.raises(ValueError, match="--lr"):
        Config.from_dict({"lr": "0.5"})


def resumed(saved, *argv):
    argv = ("--resume_from_checkpoint", "last.ckpt", *argv)
    return merge(saved.to_dict(), get_args(argv), explicit_flags(argv))


def test_a_run_from_before_alignment_is_resumed_without_it():
    saved = {name: value for name, value in Config().to_dict().items() if name not in ("align", "detector")}
    argv = ("--resume_from_checkpoint", "last.ckpt", "--align")
    config = merge(saved, get_args(argv[:-1]), explicit_flags(argv[:-1]))
    assert config.align == "no" and config.detector == Config().detector
    with pytest.raises(ValueError, match="--align yes conflicts with no in the checkpoint"):
        merge(saved, get_args((*argv, "yes")), explicit_flags((*argv, "yes")))


def test_resume_takes_the_options_of_the_checkpoint():
    saved = Config(lr=0.02, arch="ir_tiny", epochs=3, start_from_model_statedict="w.pt", test_run=True, num_workers=4)
    config = resumed(saved)
    expected = dataclasses.replace(
        saved, resume_from_checkpoint="last.ckpt", start_from_model_statedict=None, test_run=False
    )
    assert config == expected


def test_resume_lets_epochs_workers_and_paths_change():
    config = resumed(Config(epochs=3, lr=0.02), "--epochs", "5", "--num_workers", "0", "--data_root", "moved")
    assert (config.epochs, config.num_workers, config.data_root, config.lr) == (5, 0, "moved", 0.02)


def test_resume_refuses_a_conflicting_flag_by_name_but_not_an_equal_one():
    saved = Config(lr=0.02, occluders=("hand",))
    assert resumed(saved, "--lr", "0.02").lr == 0.02
    with pytest.raises(ValueError, match=r"--lr 0\.1 conflicts with 0\.02"):
        resumed(saved, "--lr", "0.1")  # the default, but given
    with pytest.raises(ValueError, match="--occluders none conflicts with hand"):
        resumed(saved, "--occluders", "none")
    with pytest.raises(ValueError, match="unknown options no_such_flag"):
        merge(saved.to_dict() | {"no_such_flag": 1}, Config(), set())


def test_what_may_change_on_resume_is_listed():
    kinds = {option.name: option.spec.on_resume for option in Config.options()}
    assert {name for name, kind in kinds.items() if kind == MAY_CHANGE} == {
        "data_root", "train_data_path", "val_data_path", "val_sets", "fars", "anonymous", "train_data_subset",
        "max_bad_fraction", "pairs", "front",
        "epochs", "checkpoint_every_n_steps", "keep_every_n_epochs", "on_nonfinite", "max_skipped_steps",
        "gpus", "num_workers", "num_processes", "distributed_backend", "compile", "activation_checkpointing",
        "channels_last", "log_every_n_steps", "heartbeat_seconds", "status_seconds", "patience", "data", "difficulty",
        "merge_identities",
        "save_all_models", "tensorboard", "wandb", "wandb_project", "wandb_entity", "wandb_name", "wandb_artifacts",
        "precision", "use_16bit", "threads",
    }  # fmt: skip
    assert {name for name, kind in kinds.items() if kind == INVOCATION} == {
        "load", "color_space", "resume_from_checkpoint", "override", "requeue", "start_from_model_statedict",
        "evaluate",
        "fast_dev_run", "test_run",
    }  # fmt: skip
    assert set(kinds.values()) == {FIXED, MAY_CHANGE, INVOCATION}
