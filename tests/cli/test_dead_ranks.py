"""A rank that dies ends the whole run, soon and with its reason."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from broken_runs import FLAGS
from programs import ROOT
from short_runs import write_faces

from engine import signals

LAUNCHERS = {
    "ours": [sys.executable, str(ROOT / "main.py"), "--num_processes", "2"],
    "torchrun": [sys.executable, *"-m torch.distributed.run --standalone --nproc_per_node 2".split(), "main.py"],
}
LAUNCHERS["torchrun"][-1] = str(ROOT / "main.py")


def ranks_of(marker):
    """Return {rank: process id} of the living training processes whose environment holds a marker."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
            environment = dict(v.split(b"=", 1) for v in (folder / "environ").read_bytes().split(b"\0") if b"=" in v)
        except (OSError, ProcessLookupError):
            continue
        if environment.get(b"TEST_MARKER") == marker.encode() and b"torch.distributed.run" not in words:
            found[int(environment.get(b"LOCAL_RANK", b"0"))] = int(folder.name)
    return found


def wait_for(condition, seconds):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("launcher", "victim"),
    [
        ("ours", 1),
        pytest.param("ours", 0, marks=pytest.mark.slow),
        pytest.param("torchrun", 1, marks=pytest.mark.slow),
        pytest.param("torchrun", 0, marks=pytest.mark.slow),
    ],
)
def test_a_rank_that_is_killed_ends_the_run_within_a_minute(tmp_path, launcher, victim):
    marker = str(tmp_path)
    flags = [*FLAGS, "--data_root", str(write_faces(tmp_path / "faces")), "--epochs", "10000", "--cross_rank_pairs"]
    with (tmp_path / "out.txt").open("w") as stream:
        process = subprocess.Popen(
            [*LAUNCHERS[launcher], *flags], cwd=tmp_path, stdout=stream, stderr=stream, start_new_session=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "TEST_MARKER": marker},
        )  # fmt: skip
    try:
        wait_for(lambda: list(tmp_path.glob("experiments/*/last.ckpt")), 300)
        ranks = ranks_of(marker)
        assert set(ranks) == {0, 1}
        os.kill(ranks[victim], signal.SIGKILL)
        wait_for(lambda: process.poll() is not None and not ranks_of(marker), 60)
    finally:
        for left in ranks_of(marker).values():
            os.kill(left, signal.SIGKILL)
        process.kill()
        process.wait()
    assert process.returncode != 0
    output = (tmp_path / "out.txt").read_text()
    if launcher == "ours":
        assert ("rank 1 was killed by SIGKILL" if victim else "rank 0 has died") in output
    else:
        assert f"Signal {int(signal.SIGKILL)} (SIGKILL)" in output


SECONDS = signals.GRACE + 20  # and for the imports of a busy machine


@pytest.mark.slow
@pytest.mark.parametrize(
    "delay", [0.0, *(pytest.param(delay, marks=pytest.mark.slow) for delay in (0.05, 0.2, 1.0, 3.0, 6.0))]
)
def test_no_rank_outlives_a_rank_0_that_is_killed_while_they_start(tmp_path, delay):
    marker = str(tmp_path)
    flags = [*FLAGS, "--data_root", str(write_faces(tmp_path / "faces")), "--epochs", "10000", "--cross_rank_pairs"]
    with (tmp_path / "out.txt").open("w") as stream:
        process = subprocess.Popen(
            [*LAUNCHERS["ours"], *flags], cwd=tmp_path, stdout=stream, stderr=stream, start_new_session=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "TEST_MARKER": marker},
        )  # fmt: skip
    try:
        wait_for(lambda: 1 in ranks_of(marker) or process.poll() is not None, 120)
        time.sleep(delay)
        assert process.poll() is None, (tmp_path / "out.txt").read_text()
        process.kill()
        process.wait()
        wait_for(lambda: not ranks_of(marker), SECONDS)
    finally:
        for left in ranks_of(marker).values():
            os.kill(left, signal.SIGKILL)


LATE = "import os, time; from engine.signals import watch_rank_0; watch_rank_0(False); time.sleep(60)"
EXITING = """
import atexit, time
atexit.register(time.sleep, 60)  # runs after what is registered later, as the end of an interpreter does
from engine.signals import watch_rank_0
watch_rank_0(False)
"""


@pytest.mark.parametrize("program", [LATE, EXITING], ids=["already dead", "at the exit"])
def test_a_rank_finds_that_rank_0_is_dead_however_early_or_late_that_was(program):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    environment = {**os.environ, signals.RANK_0: str(gone.pid)}
    start = time.monotonic()
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, timeout=50)
    assert done.returncode == 1 and time.monotonic() - start < SECONDS


WORKER = """
import os, time
from torch.utils.data import DataLoader
from engine.signals import start_worker
class Slow:
    def __len__(self):
        return 4
    def __getitem__(self, index):
        print(os.getpid(), flush=True)
        time.sleep(60)
batches = iter(DataLoader(Slow(), batch_size=None, num_workers=1, worker_init_fn=start_worker))
time.sleep(60)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process of its parent's death")
def test_a_worker_dies_with_its_rank_also_within_an_image():
    with subprocess.Popen([sys.executable, "-c", WORKER], cwd=ROOT, stdout=subprocess.PIPE, text=True) as rank:
        worker = int(rank.stdout.readline())
        rank.kill()
        rank.wait()
        wait_for(lambda: not is_running(worker), 3)


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
