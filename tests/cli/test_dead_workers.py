"""A worker that dies or hangs, or data that go while they are read: one line says what, and nothing is lost."""

import json
import os
import re
import shutil
import signal
import time

import pytest
import torch
from broken_runs import FLAGS, assert_same, finish, outcome, output, run_folder, start
from short_runs import write_faces

from engine.checkpoint_file import damage

WORKERS = [*FLAGS, "--num_workers", "2", "--heartbeat_seconds", "1"]


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    """Training images for 12 batches an epoch: at its begin the workers are asked for 8 of them."""
    return str(write_faces(tmp_path_factory.mktemp("faces"), images=12))


@pytest.fixture(scope="module")
def undisturbed(faces, tmp_path_factory):
    cwd = tmp_path_factory.mktemp("whole")
    assert finish(start([*WORKERS, "--data_root", faces], cwd)) == [0], output(cwd)
    return outcome(cwd)


def wait_for(condition, seconds=180):
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.1)
    return found


def errors(cwd, rank=0):
    return [line.partition(" ERROR ")[2] for line in output(cwd, rank).splitlines() if " ERROR " in line]


@pytest.mark.slow
@pytest.mark.parametrize(("place", "worker"), [("forward", 0), pytest.param("validation", -1, marks=pytest.mark.slow)])
def test_a_worker_that_is_killed_ends_the_run_with_one_line_and_auto_goes_on(
    faces, undisturbed, tmp_path, place, worker
):
    argv = [*WORKERS, "--data_root", faces]
    assert finish(start(argv, tmp_path, (place, 5, signal.SIGKILL, worker)), timeout=60) == [1], output(tmp_path)
    (line,) = errors(tmp_path)
    assert re.fullmatch(
        r"a worker of the data loader \(process \d+\) was killed by SIGKILL, probably out of memory: lower "
        r"--num_workers; the run ends, resume it from its last checkpoint", line,
    )  # fmt: skip
    assert "Traceback" not in output(tmp_path)
    assert damage(run_folder(tmp_path) / "last.ckpt") is None
    assert json.loads((run_folder(tmp_path) / "heartbeat.json").read_text())["state"] == "failed or stopped"
    assert finish(start(argv, tmp_path)) == [0], output(tmp_path)
    assert_same(outcome(tmp_path), undisturbed)


@pytest.mark.slow
def test_a_worker_that_is_stopped_is_named_and_training_goes_on_with_it(faces, undisturbed, tmp_path):
    processes = start([*WORKERS, "--data_root", faces], tmp_path, ("forward", 1, signal.SIGSTOP, 0))
    said = re.compile(r"WARNING no batch was finished for \d+ s: the workers .*process (\d+) \(stopped\).*")
    match = wait_for(lambda: (tmp_path / "out_0.txt").exists() and said.search(output(tmp_path)))
    worker = int(match[1])
    beat = wait_for(
        lambda: (found := json.loads((run_folder(tmp_path) / "heartbeat.json").read_text()))["stalled"] and found
    )
    assert beat["stalled"] in match[0] and beat["images_per_second"] == 0
    os.kill(worker, signal.SIGCONT)
    assert finish(processes) == [0], output(tmp_path)
    text = output(tmp_path)
    assert "training goes on" in text[match.end() :]
    assert_same(outcome(tmp_path), undisturbed)


@pytest.mark.slow
def test_of_two_ranks_the_one_with_the_stopped_worker_names_it_and_its_death_ends_both(faces, tmp_path):
    processes = start([*WORKERS, "--data_root", faces], tmp_path, ("forward", 1, signal.SIGSTOP, 0), 2, faulty_rank=1)
    said = re.compile(r"WARNING rank 1: no batch was finished for \d+ s: the workers .*process (\d+) \(stopped\)")
    worker = int(wait_for(lambda: (tmp_path / "out_1.txt").exists() and said.search(output(tmp_path, 1)))[1])
    wait_for(lambda: "WARNING rank 0: no batch was finished" in output(tmp_path))
    assert "perhaps it waits for another rank, which says so too" in output(tmp_path)
    os.kill(worker, signal.SIGKILL)
    codes = finish(processes, timeout=60)
    assert codes[1] == 1 and codes[0] not in (0, None), codes
    assert f"a worker of the data loader (process {worker}) was killed by SIGKILL" in errors(tmp_path, 1)[0]


@pytest.mark.slow
def test_one_signal_ends_a_run_whose_worker_is_stopped(faces, undisturbed, tmp_path):
    argv = [*WORKERS, "--data_root", faces]
    processes = start(argv, tmp_path, ("forward", 1, signal.SIGSTOP, 0), stop_seconds=2.0)
    said = re.compile(r"no batch was finished .*process \d+ \(stopped\)")
    wait_for(lambda: (tmp_path / "out_0.txt").exists() and said.search(output(tmp_path)))
    os.kill(processes[0].pid, signal.SIGTERM)
    assert finish(processes, timeout=60) == [128 + signal.SIGTERM], output(tmp_path)
    (line,) = [line for line in output(tmp_path).splitlines() if "stopped by SIGTERM" in line]
    assert re.search(
        r"after step \d+, without a checkpoint of it: no batch has come for \d+ s; the workers .*"
        r"process \d+ \(stopped\).*; to go on: .*last\.ckpt", line,
    )  # fmt: skip
    assert "Traceback" not in output(tmp_path)
    assert damage(run_folder(tmp_path) / "last.ckpt") is None
    assert json.loads((run_folder(tmp_path) / "heartbeat.json").read_text())["state"] == "failed or stopped"
    assert finish(start(argv, tmp_path)) == [0], output(tmp_path)
    assert_same(outcome(tmp_path), undisturbed)


def test_an_error_of_a_worker_is_one_line(faces, tmp_path):
    shutil.copytree(faces, tmp_path / "faces")
    argv = [*WORKERS, "--data_root", tmp_path / "faces", "--epochs", "1000"]
    processes = start(argv, tmp_path)
    wait_for(lambda: list(tmp_path.glob("experiments/*/last.ckpt")))
    shutil.rmtree(tmp_path / "faces" / "train")
    assert finish(processes, timeout=60) == [1], output(tmp_path)
    (line,) = errors(tmp_path)
    assert re.match(
        r"worker \d of the data loader: UnreadableImageError: .*\(view.py:\d+\); the run ends, resume", line
    )
    assert "Traceback" not in output(tmp_path)


@pytest.mark.slow
def test_a_file_that_is_cut_short_while_it_is_read_is_one_line(faces, tmp_path):
    shutil.copytree(faces, tmp_path / "faces")
    argv = [*WORKERS, "--data_root", tmp_path / "faces", "--epochs", "1000"]
    processes = start(argv, tmp_path)
    wait_for(lambda: list(tmp_path.glob("experiments/*/last.ckpt")))
    os.truncate(tmp_path / "faces" / "lfw" / "images.npy", 1000)
    assert finish(processes, timeout=60) == [1], output(tmp_path)
    (line,) = errors(tmp_path)
    assert re.search(r"was killed by SIGBUS: a file that it reads was cut short, or shared memory is full", line)
    assert "Traceback" not in output(tmp_path)
    assert torch.load(run_folder(tmp_path) / "last.ckpt", weights_only=True)["global_step"] > 0


@pytest.mark.slow
def test_too_many_corrupt_images_end_the_run_with_one_line(faces, tmp_path):
    shutil.copytree(faces, tmp_path / "faces")
    broken = sorted((tmp_path / "faces" / "train").glob("*/3.png"))[:3]
    for path in broken:
        path.write_bytes(path.read_bytes()[:500])
    argv = [*WORKERS, "--data_root", tmp_path / "faces"]
    assert finish(start([*argv, "--max_bad_fraction", "0.02"], tmp_path)) == [1], output(tmp_path)
    (line,) = errors(tmp_path)
    assert line.startswith("--max_bad_fraction 0.02: 3 of 96 training images cannot be read, 1 may; unreadable.txt")
    listed = (run_folder(tmp_path) / "unreadable.txt").read_text().splitlines()
    assert [path.split("\t")[0] for path in listed] == list(map(str, broken))
    assert finish(start([*argv, "--max_bad_fraction", "0.05"], tmp_path)) == [0], output(tmp_path)
    assert "Traceback" not in output(tmp_path)
