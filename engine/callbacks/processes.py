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


def is_stopped(process: int) -> bool:
    """Return whether a process is known to be stopped, by a signal or a debugger."""
    return _state(process) in ("T", "t")


def _state(process: int) -> str | None:
    """Return the kernel's letter for the state of a process; None where that is not known, or the process is gone."""
    try:
        stat = (_PROC / str(process) / "stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    return stat.rpartition(")")[2].split()[0]  # behind its name, which may hold anything


def describe(process: int) -> str:
    """Return a process's number and, where that is known, its state and the kernel's name of what it waits for."""
    if (state := _state(process)) is None:
        return f"process {process}"
    try:
        waits_in = (_PROC / str(process) / "wchan").read_text(encoding="utf-8").strip()
    except OSError:
        waits_in = ""
    place = f" in {waits_in}" if waits_in not in ("", "0") else ""
    return f"process {process}, {_STATES.get(state, state)}{place}"
