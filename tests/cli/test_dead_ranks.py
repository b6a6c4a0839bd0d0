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
