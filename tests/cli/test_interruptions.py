"""Runs that are stopped, killed and started again end as if nothing had happened."""

import os
import random
import stat
import sys

import pytest
import torch
from broken_runs import (
    FLAGS,
    NUM_STEPS,
    PLACES,
    SIGINT,
    SIGKILL,
    SIGTERM,
    assert_same,
    finish,
    outcome,
    output,
    run_folder,
    start,
)
from short_runs import write_faces


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    """8 identities of 4 images and 7 pairs: two ranks cannot share them evenly."""
    return str(write_faces(tmp_path_factory.mktemp("faces"), pairs=7))


def whole(faces, tmp_path_factory, ranks):
    cwd = tmp_path_factory.mktemp("whole")
    assert finish(start([*FLAGS, "--data_root", faces], cwd, ranks=ranks)) == [0] * ranks, output(cwd)
    return outcome(cwd)


@pytest.fixture(scope="module")
def undisturbed(faces, tmp_path_factory):
    """What a run of one process leaves that meets no fault."""
    return whole(faces, tmp_path_factory, 1)


@pytest.fixture(scope="module")
def undisturbed_ranks(faces, tmp_path_factory):
    """What a run of two ranks leaves that meets no fault."""
    return whole(faces, tmp_path_factory, 2)


def fake_scontrol(folder):
    """Put an scontrol that notes how it is called into a folder; return the note."""
    folder.mkdir()
    note = folder / "called"
    program = folder / "scontrol"
    program.write_text(f'#!/bin/sh\necho "$@" >> {note}\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return note


@pytest.mark.flag("requeue")
@pytest.mark.slow
def test_a_job_that_is_stopped_killed_and_requeued_ends_as_if_it_had_not_been(faces, undisturbed, tmp_path):
    note = fake_scontrol(tmp_path / "bin")
    slurm = {"SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "3"}
    slurm["PATH"] = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
    argv = [*FLAGS, "--data_root", faces, "--requeue"]
    cwd = tmp_path / "job"
    cwd.mkdir()
    assert finish(start(argv, cwd, ("validation", 2, SIGTERM), **slurm)) == [85], output(cwd)
    assert torch.load(run_folder(cwd) / "last.ckpt", weights_only=True)["global_step"] == 2
    assert finish(start(argv, cwd, ("checkpoint", 5, SIGINT), **slurm)) == [85]
    assert torch.load(run_folder(cwd) / "last.ckpt", weights_only=True)["global_step"] == 5
    assert note.read_text() == "requeue 7_3\n" * 2
    assert finish(start(argv, cwd, ("checkpoint", 7, SIGKILL))) == [-SIGKILL]
    assert finish(start(argv, cwd)) == [0]
    assert_same(outcome(cwd), undisturbed)
    text = output(cwd)
    assert text.count("a new run starts") == 1 and text.count("auto: going on from experiments/maskwise_") == 3
    assert f"after step 2; to go on: {sys.executable} " in text
    assert f"main.py --resume_from_checkpoint {run_folder(cwd).relative_to(cwd)}/last.ckpt" in text
    assert "stopped by SIGTERM after step 2" in text and "stopped by SIGINT after step 5" in text
    assert "Traceback" not in text
    assert len((run_folder(cwd) / "command.txt").read_text().splitlines()) == 4


def killed_run(faces, cwd, seed, ranks):
    """Kill a run at a random place, let it go on, and return what it leaves."""
    rng = random.Random(seed)
    fault = (rng.choice(PLACES), rng.randrange(NUM_STEPS), SIGKILL)
    faulty_rank = rng.randrange(ranks) if fault[0] != "checkpoint" else 0  # rank 0 writes
    cwd.mkdir()
    argv = [*FLAGS, "--data_root", faces]
    codes = finish(start(argv, cwd, fault, ranks, faulty_rank), timeout=300)
    assert codes[faulty_rank] == -SIGKILL, (fault, codes, output(cwd, faulty_rank))
    assert None not in codes and 0 not in codes, f"a rank outlived another: {fault}, {codes}"
    assert finish(start(argv, cwd, ranks=ranks)) == [0] * ranks, (fault, output(cwd))
    return outcome(cwd)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_a_killed_run_goes_on_to_the_same_bits(faces, undisturbed, tmp_path, seed):
    assert_same(killed_run(faces, tmp_path / "job", seed, 1), undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 20))])
def test_two_ranks_one_of_which_is_killed_go_on_to_the_same_bits(faces, undisturbed_ranks, tmp_path, seed):
    assert_same(killed_run(faces, tmp_path / "job", seed, 2), undisturbed_ranks)


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(SIGTERM, 143), pytest.param(SIGINT, 130, marks=pytest.mark.slow)])
def test_two_ranks_stop_when_one_is_told_to(faces, undisturbed_ranks, tmp_path, number, code):
    argv = [*FLAGS, "--data_root", faces, "--checkpoint_every_n_steps", "0"]
    assert finish(start(argv, tmp_path, ("forward", 5, number), 2, faulty_rank=1)) == [code, 0], output(tmp_path)
    assert 6 <= torch.load(run_folder(tmp_path) / "last.ckpt", weights_only=True)["global_step"] <= 7
    assert finish(start(argv, tmp_path, ranks=2)) == [0, 0], output(tmp_path)
    assert_same(outcome(tmp_path), undisturbed_ranks)
