"""What training waits for when nothing goes on, seen from another thread, which ends the wait if it shall stop."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import pytorch_lightning as pl
from torch.utils.data import dataloader

from engine.callbacks import processes
from engine.signals import StoppedWaiting, StopSignals
from system import ROOT

# After a signal. A scheduler that gives less time kills anyway, and reading one batch takes no such time.
STOP_SECONDS = 30.0
_LOOK_SECONDS = 0.5
_Workers = dataloader._MultiProcessingDataLoaderIter


def describe_wait(thread: int, num_ranks: int = 1) -> str:
    """Return what a thread of this process does or waits for: a worker of a data loader by name, else a line of code.

    Args:
        thread: its identifier; it may be anywhere, and is not disturbed.
        num_ranks: of the run; of several one may wait for another.
    """
    frames = list(_frames(sys._current_frames().get(thread)))
    if (workers := _find_loader(frames)) is not None:
        return f"waits for {_awaited(workers)}"
    if not frames:
        return "is not there"
    innermost, ours = frames[0], next((frame for frame in frames if _is_ours(frame)), frames[0])
    places = [_place(frame) for frame in ([innermost] if ours is innermost else [innermost, ours])]
    peers = ", perhaps for another rank, which then says what for" if num_ranks > 1 else ""
    return f"is or waits in {', from '.join(places)}{peers}"


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
        if _wait(frame) == wait:  # no batch has come meanwhile
            place = describe_wait(main, trainer.world_size)
            raise StoppedWaiting(stop.received, trainer.global_step, time.monotonic() - begin, place)

    wait, begin = None, time.monotonic()
    while not over.wait(_LOOK_SECONDS):
        found = _wait(sys._current_frames().get(main)) if stop.received else None
        if found is None or found != wait:
            wait, begin = found, time.monotonic()
        elif time.monotonic() - begin > STOP_SECONDS:
            stop.wake(give_up)


def _wait(frame: FrameType | None) -> tuple[int, int] | None:
    """Return which loader a thread waits in, and for which of its batches; None if it waits for none."""
    loader = _find_loader(list(_frames(frame)))
    return None if loader is None else (id(loader), vars(loader).get("_rcvd_idx", -1))


def _frames(frame: FrameType | None) -> Iterator[FrameType]:
    """Yield the frames of a stack, the innermost first."""
    while frame is not None:
        yield frame
        frame = frame.f_back


def _find_loader(frames: list[FrameType]) -> _Workers | None:
    """Return the data loader's iterator with workers that the stack is inside of."""
    inside = (frame.f_locals.get("self") for frame in frames if frame.f_code.co_filename == dataloader.__file__)
    return next((each for each in inside if isinstance(each, _Workers)), None)


def _awaited(loader: _Workers) -> str:
    """Name the worker whose batch is next, all while they start or begin an epoch, and any that is stopped.

    A worker may be stopped while it holds the lock of the queue that all of them answer through: then the one whose
    batch is next is well and cannot deliver it.
    """
    state = vars(loader)  # another thread may be building it
    workers, task = state.get("_workers", []), state.get("_task_info", {}).get(state.get("_rcvd_idx"))
    numbers = list(range(len(workers))) if task is None else [task[0]]  # (worker,), with its batch once that has come
    numbers += [i for i, each in enumerate(workers) if i not in numbers and processes.is_stopped(each.pid or 0)]
    named = [f"worker {number} ({processes.describe(workers[number].pid or 0)})" for number in numbers]
    return f"{', '.join(named) or 'the first worker'} of the data loader"


def _is_ours(frame: FrameType) -> bool:
    path = Path(frame.f_code.co_filename)
    return path.is_relative_to(ROOT) and "site-packages" not in path.parts


def _place(frame: FrameType) -> str:
    return f"{frame.f_code.co_name} ({'/'.join(Path(frame.f_code.co_filename).parts[-2:])}:{frame.f_lineno})"
