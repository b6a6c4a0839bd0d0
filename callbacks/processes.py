"""What the system tells about processes: their memory, their children, what they wait for. Linux alone has /proc."""

from __future__ import annotations

import os
from pathlib import Path

_PROC = Path("/proc")
_STATES = {
    "R": "running",
    "S": "sleeping",
    "D": "waiting for a disk or the network",
    "T": "stopped",
    "t": "stopped by a debugger",
    "Z": "dead",
    "X": "dead",
}


def resident_bytes(process: int) -> int | None:
    """Return the resident set of a process; None where that is not known, or the process is gone."""
    try:
        pages = int((_PROC / str(process) / "statm").read_text().split()[1])
    except OSError:
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")


def children(process: int) -> list[int]:
    """Return the processes that a process has started and that are there; none where that is not known."""
    found: list[int] = []
    for thread in (_PROC / str(process) / "task").glob("*"):
        try:
            found += map(int, (thread / "children").read_text().split())
        except OSError:  # the thread is gone
            continue
    return found


def describe(process: int) -> str:
    """Return a process's number and, where that is known, its state and the kernel's name of what it waits for."""
    folder = _PROC / str(process)
    try:
        state = (folder / "stat").read_text().rpartition(")")[2].split()[0]  # behind its name, which may hold anything
    except OSError:
        return f"process {process}"
    try:
        waits_in = (folder / "wchan").read_text().strip()
    except OSError:
        waits_in = ""
    place = f" in {waits_in}" if waits_in not in ("", "0") else ""
    return f"process {process}, {_STATES.get(state, state)}{place}"
