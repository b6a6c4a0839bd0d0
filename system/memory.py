"""The memory that this process may have at most, and what processes hold of it. Standard library only."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from system.cgroups import group_values
from system.processes import session_members

_PROC = Path("/proc")


def gigabytes(size: float) -> str:
    """Return a number of bytes in words."""
    return f"{size / 1e9:,.2f} GB"


def total_memory() -> float | None:
    """Return the bytes of memory of this machine, or of the control groups of this process; None if unknown."""
    try:
        machine = float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (AttributeError, ValueError, OSError):
        return None  # a system without sysconf, or without these names
    return min([machine, *group_limits()])


def group_limits() -> Iterator[float]:
    """Yield the bytes that each control group of this process allows, where it limits them."""
    for words in group_values("memory", ("memory.limit_in_bytes",), "memory.max"):
        if len(words) == 1 and words[0].isdecimal():  # not "max"
            yield float(words[0])


def free_memory() -> float | None:
    """Return the bytes that processes may still take without swapping, as far as control groups let; None if unknown.

    Of a group it is what it allows in all: what it holds already is not known to be its own.
    """
    free = _bytes_of("meminfo", "MemAvailable")
    return None if free is None else min([float(free), *group_limits()])


def peak_resident() -> int | None:
    """Return the most bytes of memory that this process has held since `restart_peak`; None where Linux is not."""
    return _bytes_of("self/status", "VmHWM")


def restart_peak() -> bool:
    """Begin `peak_resident` anew, at what this process holds now, and return whether the system allows it."""
    with suppress(OSError):
        (_PROC / "self/clear_refs").write_text("5", encoding="utf-8")
        return True
    return False


def session_memory(leader: int) -> int | None:
    """Return the bytes that all processes of a session hold, what they share counted once; None if unknown."""
    pids = session_members(leader)
    sizes = []
    for pid in pids:
        # What processes share costs milliseconds to find out, and one alone shares nothing.
        own = _bytes_of(f"{pid}/smaps_rollup", "Pss") if len(pids) > 1 else None
        sizes.append(_bytes_of(f"{pid}/status", "VmRSS") if own is None else own)
    known = [size for size in sizes if size is not None]
    return sum(known) if known else None


def _bytes_of(file: str, field: str) -> int | None:
    """Return a field, in kB there, of a file that the kernel writes; None where there is none, or no such process."""
    with suppress(OSError):
        lines = (_PROC / file).read_text(encoding="utf-8", errors="replace").splitlines()
        return next((1024 * int(line.split()[1]) for line in lines if line.startswith(f"{field}:")), None)
    return None
