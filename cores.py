"""The cores that this process really has, and how many threads shall compute on them.

Standard library only: how threads wait is read by the libraries of torch when they are loaded, so it is set before.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, MutableMapping
from pathlib import Path, PurePosixPath

# Rounds in which a thread of GNU's OpenMP looks for work before it sleeps. Its own default of 300,000 burns the time
# slice that the other threads need when a neighbor has their core: a step takes up to 15 times as long.
# `python -m benchmarks.threads` measures it.
SPIN_COUNT = "1000"
# The same for LLVM's and Intel's OpenMP, in milliseconds of the 200 they have by default.
BLOCK_TIME = "1"
# Of the cores, the part that reading and augmenting images takes of a step on the CPU, as docs/benchmarks.md shows.
READING_SHARE = 1 / 16
_WAIT_VARIABLES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
_PROC, _CGROUPS = Path("/proc"), Path("/sys/fs/cgroup")


def bound_waiting(environment: MutableMapping[str, str] = os.environ) -> None:
    """Let threads that wait for each other sleep soon; call it before torch is imported.

    Whoever has set one of the variables for it knows better: then nothing is changed.
    """
    if not any(name in environment for name in _WAIT_VARIABLES):
        environment.update(GOMP_SPINCOUNT=SPIN_COUNT, KMP_BLOCKTIME=BLOCK_TIME)


def describe_waiting(environment: Mapping[str, str] = os.environ) -> str:
    """Return the variables that say how threads wait, as text."""
    return ", ".join(f"{name}={environment[name]}" for name in _WAIT_VARIABLES if name in environment)


def usable_cores() -> int:
    """Return the cores that this process may use at a time: by affinity, and by the quota of its cgroups."""
    quota = min(_quotas(), default=float("inf"))
    return max(1, int(min(_cores_by_affinity(), quota)))


def choose_threads(cores: int, ranks: int, workers: int, on_gpu: bool) -> int:
    """Return the threads for each of the ranks that share a machine's cores.

    Args:
        cores: of the machine, as `usable_cores` says.
        ranks: of this run on the machine.
        workers: of each rank, that read images.
        on_gpu: whether the ranks compute on GPUs. Then reading takes the cores; on the CPU it takes a small part.
    """
    own = cores / ranks
    reading = min(workers, own if on_gpu else int(own * READING_SHARE))
    return max(1, int(own - reading))


def _cores_by_affinity() -> int:
    if hasattr(os, "process_cpu_count"):  # Python 3.13
        return os.process_cpu_count() or 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _quotas() -> Iterator[float]:
    """Yield the cores that each cgroup of this process allows it, of version 1 and 2, where one is limited."""
    for line in _lines(_PROC / "self/cgroup"):
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        # In a container the path may be the host's, which is not there; the root of what is mounted is.
        for group in (PurePosixPath(path), *PurePosixPath(path).parents):
            inside = str(group).lstrip("/")
            for root in (_CGROUPS / name for name in (controllers, "cpu") if controllers):
                yield from _quota(
                    _lines(root / inside / "cpu.cfs_quota_us") + _lines(root / inside / "cpu.cfs_period_us")
                )
            if not controllers:
                yield from _quota(" ".join(_lines(_CGROUPS / inside / "cpu.max")).split())


def _quota(words: list[str]) -> Iterator[float]:
    """Yield quota / period of two numbers; "max" and -1 stand for no limit."""
    if len(words) == 2 and words[0].isdecimal() and words[1].isdecimal() and int(words[1]):
        yield int(words[0]) / int(words[1])


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []  # no such limit here
