"""The scripts of experiments/launch: however two ranks are started, they do the same."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import fake_slurm
import pytest
from broken_runs import FLAGS, NUM_STEPS, assert_same, outcome, run_folder
from programs import ROOT, program
from short_runs import metrics, write_faces

SCRIPTS = ROOT / "experiments" / "launch"
NUM_PAIRS = 7  # two ranks cannot share them evenly


@pytest.fixture(scope="module")
def flags(tmp_path_factory):
    """Flags of main.py, data included."""
    faces = write_faces(tmp_path_factory.mktemp("faces"), pairs=NUM_PAIRS)
    return [*FLAGS, "--cross_rank_pairs", "--data_root", str(faces)]


@pytest.fixture(scope="module")
def expected(flags, tmp_path_factory):
    """What two ranks leave that main.py has started itself."""
    cwd = tmp_path_factory.mktemp("started_by_ourselves")
    program("main.py", *flags, "--num_processes", 2, cwd=cwd)
    return outcome(cwd)


def launch(script, *words, cwd, name="out", **environment):
    """Start a script of experiments/launch in a folder; its output goes to a file there."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHON": sys.executable, **environment}
    with (cwd / f"{name}.txt").open("a") as stream:
        return subprocess.Popen(
            ["bash", str(SCRIPTS / script), *map(str, words)],
            cwd=cwd, env=environment, stdout=stream, stderr=stream, start_new_session=True,
        )  # fmt: skip


def launch_nodes(flags, cwd):
    """Start two "nodes" of one rank each, in one folder as on a shared disk; the second when it can meet the first."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    nodes = []
    for name in ("node_0", "node_1"):
        nodes.append(launch("torchrun_nodes.sh", f"127.0.0.1:{port}", 2, 1, *flags, cwd=cwd, name=name))
        wait_for(lambda: is_open(port), cwd)
    return nodes


def is_open(port):
    with socket.socket() as caller:
        return caller.connect_ex(("127.0.0.1", port)) == 0


def finish(processes, cwd, timeout=300):
    """Return the exit codes of processes that end within a time; none outlives it."""
    try:
        codes = [process.wait(timeout) for process in processes]
    finally:
        for process in processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)
    return codes


def text(cwd):
    return "\n".join(path.read_text() for path in sorted(cwd.glob("*.txt")))


def assert_one_whole_run(cwd, expected):
    """Compare what a run left, in one run folder, with what is expected: every step and every pair once."""
    assert len(list((cwd / "experiments").iterdir())) == 1
    assert_same(outcome(cwd), expected)
    (conditions,) = (entry["conditions"] for entry in outcome(cwd)[1]["benchmarks"].values())
    counts = [entry["num_genuine"] + entry["num_impostor"] for entry in conditions["clean"].values()]
    assert counts == [NUM_PAIRS] * 3
    assert metrics(run_folder(cwd))[-1]["step"] == NUM_STEPS
    assert text(cwd).count("\nrun folder: ") == 1, "one report"


@pytest.mark.slow
def test_torchrun_on_one_machine(flags, expected, tmp_path):
    assert finish([launch("torchrun.sh", 2, *flags, cwd=tmp_path)], tmp_path) == [0], text(tmp_path)
    assert_one_whole_run(tmp_path, expected)


@pytest.mark.slow
def test_torchrun_on_two_nodes(flags, expected, tmp_path):
    assert finish(launch_nodes(flags, tmp_path), tmp_path) == [0, 0], text(tmp_path)
    assert_one_whole_run(tmp_path, expected)


def wait_for(condition, cwd, seconds=200):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, text(cwd)
        time.sleep(0.02)


def still_training(cwd):
    """Return the processes whose working folder this is."""

    def folder_of(process):
        try:
            return (process / "cwd").resolve()
        except OSError:
            return None

    return [int(process.name) for process in Path("/proc").glob("[0-9]*") if folder_of(process) == cwd]


def launch_job(flags, cwd):
    programs = cwd / "bin"
    note = programs / "note" if programs.exists() else fake_slurm.install(programs)
    (cwd / "main.py").unlink(missing_ok=True)
    (cwd / "main.py").symlink_to(ROOT / "main.py")  # the folder stands for the project's, without its experiments
    return launch("slurm.sbatch", *flags, cwd=cwd, **fake_slurm.batch_environment(programs, cwd, 2, 1)), note


@pytest.mark.slow
def test_slurm_on_two_nodes_stopped_and_put_back_into_the_queue(flags, expected, tmp_path):
    job, note = launch_job(flags, tmp_path)
    wait_for(lambda: job.poll() is not None or list(tmp_path.glob("experiments/*/last.ckpt")), tmp_path)
    job.terminate()  # the script has become srun
    assert finish([job], tmp_path) == [85], text(tmp_path)
    assert note.read_text() == "requeue 4711\n"
    assert "stopped by SIGTERM after step" in text(tmp_path)
    job, _ = launch_job(flags, tmp_path)
    assert finish([job], tmp_path) == [0], text(tmp_path)
    assert_one_whole_run(tmp_path, expected)


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_node_whose_torchrun_is_killed_ends_the_other_within_a_minute(flags, tmp_path, victim):
    nodes = launch_nodes([*flags, "--epochs", 10000], tmp_path)
    try:
        wait_for(lambda: list(tmp_path.glob("experiments/*/last.ckpt")), tmp_path)
        nodes[victim].kill()
        wait_for(lambda: nodes[1 - victim].poll() is not None and not still_training(tmp_path), tmp_path, 60)
    finally:
        for process in (*still_training(tmp_path), *(node.pid for node in nodes if node.poll() is None)):
            os.kill(process, signal.SIGKILL)
    assert "torchrun has died" in text(tmp_path)


@pytest.mark.parametrize("script", ["torchrun.sh", "torchrun_nodes.sh"])
def test_a_script_without_its_arguments_says_how_it_is_used(script, tmp_path):
    assert finish([launch(script, cwd=tmp_path)], tmp_path) != [0]
    assert f"usage: {script} " in text(tmp_path)
