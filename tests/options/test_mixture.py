"""The words of --data: what a set is, what it may have of its own, and what is refused."""

import pytest

from config import Config, get_args
from options.words.data_set import DataSet, read_data_set


def test_a_word_names_a_set_its_place_its_weight_and_what_it_has_of_its_own():
    word = "masked=/data/a b=c:0.25,occluders=cap+scarf,occlusion-prob=0.9,head=cosface,loss_weight=2"
    own = (("occluders", "cap+scarf"), ("occlusion_prob", "0.9"), ("head", "cosface"))
    assert read_data_set(word) == DataSet("masked", "/data/a b=c", 0.25, 2.0, None, own)
    assert read_data_set("web=C:faces") == DataSet("web", "C:faces")


def test_options_of_a_set_are_those_of_the_run_but_for_its_own():
    masked = "masked=people,occluders=cap+scarf,occlusion_prob=0.9,head=cosface,val=sets"
    flags = ["--val_data_path", "common", "--m", "0.3", "--seed", "7"]
    config = get_args(["--data", "web=faces:3", "--data", masked, *flags])
    assert [*config.by_set()] == ["web", "masked"]
    web, masked = config.by_set().values()
    assert (web.data_root, web.val_data_path, web.occlusion_prob, web.head) == ("faces", None, 0.5, "adaface")
    assert (masked.data_root, masked.val_data_path, masked.occluders) == ("people", "sets", ("cap", "scarf"))
    assert (masked.occlusion_prob, masked.head, masked.m, masked.seed) == (0.9, "cosface", 0.3, 7)
    assert config.val_data_path == "common" and Config.from_dict(config.to_dict()) == config


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["faces"], "expected NAME=PATH"),
        (["a.b=faces"], "expected NAME=PATH"),
        (["a=faces:0"], "a: the weight must be above 0"),
        (["a=faces,lr=1"], "a: 'lr' is nothing that a set can have of its own"),
        (["a=faces,align=yes,align=no"], "a: an option is given twice"),
        (["a=faces,loss_weight=-1"], "a: loss_weight must be a number from 0"),
        (["a=faces", "A=others"], "two sets are called 'a'"),
        (["a=x,loss_weight=0", "b=y,loss_weight=0"], "the loss weights sum to 0"),
        (["a=faces,head=none"], "--data a: --head: 'none' is not one of"),
        (["a=faces,h=0.3,head=arcface"], "--data a: --h belongs to --head adaface"),
    ],
)
def test_what_is_no_set_is_refused_in_one_line(words, message, capsys):
    with pytest.raises(SystemExit) as stop:
        get_args([part for word in words for part in ("--data", word)])
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()[-1:]
    assert message in line and "--data" in line


@pytest.mark.parametrize("flag", ["data_root", "train_data_path", "train_data_subset"])
def test_flags_of_the_only_set_conflict(flag):
    with pytest.raises(ValueError, match=f"--{flag} conflicts with --data"):
        Config(data=("a=x",), **{flag: "y"})
    with pytest.raises(ValueError, match="--sampler graph knows one data set"):
        Config(data=("a=x",), sampler="graph")
