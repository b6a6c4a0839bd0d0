"""Two gloo ranks go on, start from a checkpoint and freeze as one process does."""

import shutil

import pytest
import torch
from broken_runs import FLAGS, finish, output, run_folder, start
from short_runs import write_faces

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    return str(write_faces(tmp_path_factory.mktemp("faces")))


def train(cwd, faces, *argv):
    assert finish(start([*FLAGS, "--data_root", faces, *argv], cwd, ranks=2)) == [0, 0], output(cwd) + output(cwd, 1)
    return torch.load(run_folder(cwd) / "last.ckpt", weights_only=True)["state_dict"]


@pytest.fixture(scope="module")
def one_epoch(faces, tmp_path_factory):
    """The working folder of a run of one epoch."""
    cwd = tmp_path_factory.mktemp("one_epoch")
    train(cwd, faces, "--epochs", "1")
    return cwd


def test_auto_goes_on_as_if_the_run_had_not_ended(one_epoch, faces, tmp_path):
    shutil.copytree(one_epoch, tmp_path / "resumed")
    resumed = train(tmp_path / "resumed", faces)
    assert "auto: going on from experiments/" in output(tmp_path / "resumed")
    (tmp_path / "whole").mkdir()
    torch.testing.assert_close(resumed, train(tmp_path / "whole", faces), rtol=0, atol=0)


def test_a_loaded_and_frozen_backbone_stays_bit_for_bit_and_nothing_else_is_loaded(one_epoch, faces, tmp_path):
    path = run_folder(one_epoch) / "last.ckpt"
    source = torch.load(path, weights_only=True)["state_dict"]
    argv = ["--start_from_model_statedict", path, "--load", "backbone", "--freeze", "model.*", "--epochs", "1"]
    found = train(tmp_path, faces, *argv, "--seed", "7")
    assert found.keys() == source.keys()
    frozen = {name for name in source if name.startswith("model.")}
    assert frozen and all(torch.equal(found[name], source[name]) for name in frozen)
    floating = {name for name in source.keys() - frozen if source[name].is_floating_point()}
    assert any(not torch.equal(found[name], source[name]) for name in floating)
