"""Which process this is, and whether one that was written down still lives. Standard library only."""

from __future__ import annotations

import os
import platform
import sys
from contextlib import suppress
from pathlib import Path
from typing import TypedDict

_PROC = Path("/proc")


class Process(TypedDict):
    """A process as a file names it.

    `began` is the moment in which it started by the kernel's own count, None where that is not known: a number is given
    to another process after a while.
    """

    pid: int
    host: str
    began: int | None


def this_process() -> Process:
    """Return the words for this process."""
    found = _state(os.getpid())
    return {"pid": os.getpid(), "host": platform.node(), "began": None if found is None else found[1]}


def is_alive(process: Process) -> bool | None:
    """Return whether a process lives; None where this machine cannot know: it ran on another, or there is no /proc."""
    if process["host"] != platform.node() or sys.platform != "linux":
        return None
    found = _state(process["pid"])
    if found is None or found[0] in "ZX":  # dead, and its parent has not asked yet
        return False
    return process["began"] in (None, found[1])


def session_members(leader: int) -> list[int]:
    """Return the numbers of the processes in a session that are not dead; none where there is no /proc."""
    found = []
    for folder in _PROC.glob("[0-9]*"):
        with suppress(OSError):  # it has ended meanwhile
            stat = (folder / "stat").read_text(encoding="utf-8", errors="replace")
            words = stat.rpartition(")")[2].split()
            if int(words[3]) == leader and words[0] not in "ZX":
                found.append(int(folder.name))
    return found


def _state(pid: int) -> tuple[str, int] | None:
    """Return the letter of a process's state and when it began; None where there is none, or no such system."""
    try:
        stat = (_PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    words = stat.rpartition(")")[2].split()  # behind its name, which may hold anything
    return words[0], int(words[19])
