"""The memory that this process may have at most. Standard library only."""

from __future__ import annotations

import os
from collections.abc import Iterator

from system.cgroups import group_values


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
