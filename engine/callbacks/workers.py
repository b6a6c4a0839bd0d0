"""The processes that read for this one: their memory, which of them are stopped, and an end to a wait for them.

Linux alone has /proc.
"""

from __future__ import annotations

import mmap
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import pytorch_lightning as pl

from engine.internals import awaited_batch, started_processes
from engine.signals import StoppedWaiting, StopSignals

# After a signal. A scheduler that gives less time kills anyway, and reading one batch takes no such time.
STOP_SECONDS = 30.0
_LOOK_SECONDS = 0.5
_PROC = Path("/proc")


def resident_bytes(process: int) -> int | None:
    """Return the resident set of a process; None where that is not known, or the process is gone."""
    try:
        pages = int((_PROC / str(process) / "statm").read_text(encoding="utf-8").split()[1])
    except OSError:
        return None
    return pages * mmap.PAGESIZE


def workers() -> list[int]:
    """Return the processes that this one has started by `multiprocessing`, however they come into being, in order."""
    return [process.pid for process in started_processes() if process.pid is not None]


def describe_workers() -> str:
    """Name the processes that read for this one, and say which of them are stopped, by a signal or a debugger."""
    named = [f"process {pid}{' (stopped)' if _is_stopped(pid) else ''}" for pid in workers()]
    return f"the workers of the data loader are {', '.join(named)}" if named else "the data loader has no workers"


def _is_stopped(process: int) -> bool:
    try:
        stat = (_PROC / str(process) / "stat").read_text(encoding="utf-8", errors="replace")
    except OSError:  # gone, or no such system
        return False
    return stat.rpartition(")")[2].split()[0] in ("T", "t")  # behind its name, which may hold anything


@contextmanager
def bounded_waits(stop: StopSignals, trainer: pl.Trainer) -> Iterator[None]:
    """Within the block, end a wait for one batch of the workers that lasts for STOP_SECONDS after a signal to stop.

    Training would stop at its next step, which a worker that hangs keeps it from. How long a step or a validation takes
    does not matter: only time in the data loader counts, without one batch from it.

    Raises:
        StoppedWaiting: in the main thread, where it waits.
    """
    over = threading.Event()
    threading.Thread(target=_watch_waits, args=(stop, trainer, over), daemon=True, name="wait watch").start()
    try:
        yield
    finally:
        over.set()


def _watch_waits(stop: StopSignals, trainer: pl.Trainer, over: threading.Event) -> None:
    main = threading.main_thread().ident or 0

    def give_up(frame: FrameType | None) -> None:
        if awaited_batch(frame) == wait:  # no batch has come meanwhile
            raise StoppedWaiting(stop.received, trainer.global_step, time.monotonic() - begin, describe_workers())

    wait, begin = None, time.monotonic()
    while not over.wait(_LOOK_SECONDS):
        found = awaited_batch(sys._current_frames().get(main)) if stop.received else None
        if found is None or found != wait:
            wait, begin = found, time.monotonic()
        elif time.monotonic() - begin > STOP_SECONDS:
            stop.wake(give_up)
