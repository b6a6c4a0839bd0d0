"""What is known about processes: memory, state, and which ones are workers of ours. Linux alone has /proc."""

from __future__ import annotations

import mmap
import multiprocessing.process
from multiprocessing.process import BaseProcess
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
        pages = int((_PROC / str(process) / "statm").read_text(encoding="utf-8").split()[1])
    except OSError:
        return None
    return pages * mmap.PAGESIZE


def workers() -> list[int]:
    """Return the processes that this one has started by `multiprocessing`, however they come into being, in order."""
    # Not active_children(): it collects those that died, and torch would no longer learn from what.
    started: set[BaseProcess] = multiprocessing.process._children  # type: ignore[attr-defined]
    return sorted(process.pid for process in tuple(started) if process.pid is not None)


def describe(process: int) -> str:
    """Return a process's number and, where that is known, its state and the kernel's name of what it waits for."""
    folder = _PROC / str(process)
    try:
        # Behind its name, which may hold anything.
        state = (folder / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[0]
    except OSError:
        return f"process {process}"
    try:
        waits_in = (folder / "wchan").read_text(encoding="utf-8").strip()
    except OSError:
        waits_in = ""
    place = f" in {waits_in}" if waits_in not in ("", "0") else ""
    return f"process {process}, {_STATES.get(state, state)}{place}"
