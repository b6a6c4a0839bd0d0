"""What processes hold of the memory, and what there is, as the kernel tells it."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from system import memory
from system.processes import session_members

MIB = 2**20


def test_free_memory_is_what_machine_and_groups_leave(tmp_path, monkeypatch, write_groups):
    monkeypatch.setattr(memory, "_PROC", tmp_path / "proc")
    write_groups({})
    assert memory.free_memory() is None and memory.peak_resident() is None and memory.session_memory(1) is None
    assert not memory.restart_peak()
    write_groups({"proc/meminfo": "MemTotal: 4000 kB\nMemAvailable: 3000 kB\nSwapFree: 9000 kB\n"})
    assert memory.free_memory() == 3000 * 1024
    write_groups({"proc/self/cgroup": "0::/a\n", "cgroup/a/memory.max": "2000000\n", "cgroup/memory.max": "max\n"})
    assert memory.free_memory() == 2_000_000


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="no /proc: what a process holds is not known")
def test_a_session_holds_what_its_processes_share_once():
    lines = (
        f"import os, sys; held = bytearray(b'x') * {48 * MIB}\n"
        "sharer = os.fork()\nif sharer: print(len(held), flush=True)\nsys.stdin.read()"
    )
    command = [sys.executable, "-c", lines]
    leader = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)
    leader.stdout.readline()
    assert len(session_members(leader.pid)) == 2 and leader.pid in session_members(leader.pid)
    assert 48 * MIB < memory.session_memory(leader.pid) < 90 * MIB
    leader.communicate(b"")
    begin = time.monotonic()
    while session_members(leader.pid) and time.monotonic() - begin < 10:
        time.sleep(0.01)
    assert session_members(leader.pid) == [] and memory.session_memory(leader.pid) is None


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="no peak that can be begun anew")
def test_a_peak_is_of_the_time_since_it_was_begun():
    assert memory.restart_peak()
    before = memory.peak_resident()
    held = b"x" * (64 * MIB)
    assert memory.peak_resident() - before > 48 * MIB
    del held
    memory.restart_peak()
    assert memory.peak_resident() - before < 48 * MIB
