"""The cores that this process really has, and how many threads shall compute on them.

Standard library only: how threads wait is read by the libraries of torch when they are loaded, so it is set before.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, MutableMapping

from system.cgroups import group_values

logger = logging.getLogger(__name__)
# Rounds in which a thread of GNU's OpenMP looks for work before it sleeps. Its own default of 300,000 burns the time
# slice that the other threads need when a neighbor has their core: a step takes up to 15 times as long.
# `python -m benchmarks threads` measures it.
SPIN_COUNT = "1000"
# The same for LLVM's and Intel's OpenMP, in milliseconds of the 200 they have by default.
BLOCK_TIME = "1"
# Of the cores, the part that reading and augmenting images takes of a step on the CPU, as docs/benchmarks.md shows.
READING_SHARE = 1 / 16
_WAIT_VARIABLES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")


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


def usable_workers(num_workers: int) -> int:
    """Return the workers to use, at most one for each core."""
    return min(num_workers, usable_cores())


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
    """Yield the cores that each control group of this process allows it, where one is limited."""
    for words in group_values("cpu", ("cpu.cfs_quota_us", "cpu.cfs_period_us"), "cpu.max"):
        # "max" and -1 stand for no limit.
        if len(words) == 2 and words[0].isdecimal() and words[1].isdecimal() and int(words[1]):
            yield int(words[0]) / int(words[1])


def at_most_cores(num_workers: int) -> int:
    """Return the workers to use; more than this process has cores are too many, which a warning says."""
    usable = usable_workers(num_workers)
    if usable < num_workers:
        logger.warning("--num_workers %d: this process may use %d cores; using %d", num_workers, usable, usable)
    return usable
