"""Work spread over processes, with its results in order."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from threading import Thread
from typing import TypeVar

import cv2

from system.cores import usable_cores

Task = TypeVar("Task")
Result = TypeVar("Result")

# Results that wait for their turn, a process: enough that none idles, few enough that memory stays small.
_WAITING = 3


@contextmanager
def ordered_results(function: Callable[[Task], Result], tasks: Iterable[Task], jobs: int) -> Iterator[Iterator[Result]]:
    """Give the function's results in the order of the tasks, computed here or by `jobs` fresh processes.

    Tasks are taken one by one and at most 3 * jobs results exist at a time, however many tasks there are. The processes
    end with the block, and also when this process is killed.

    Args:
        function: at the top level of a module, or a `partial` of such a one.
        tasks: small and picklable.
        jobs: >= 1; with 1 everything runs in this process. More than two for each core are two.
    Raises:
        OSError: if a process dies; whatever the function raises.
    """
    jobs = min(jobs, 2 * usable_cores())
    if jobs == 1:
        yield map(function, tasks)
        return
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), _start) as pool:
        try:
            yield _in_order(pool, function, tasks, _WAITING * jobs)
        except BrokenProcessPool as error:
            raise OSError("a worker process was killed, perhaps for its memory; fewer jobs need less") from error
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _in_order(
    pool: ProcessPoolExecutor, function: Callable[[Task], Result], tasks: Iterable[Task], limit: int
) -> Iterator[Result]:
    waiting: deque[Future[Result]] = deque()
    for task in tasks:
        waiting.append(pool.submit(function, task))
        if len(waiting) >= limit:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _start() -> None:
    # The processes are the parallelism; and the parent alone answers Ctrl-C.
    cv2.setNumThreads(0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End this process when its parent is gone: a killed one cannot say goodbye, and its queue would wait for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
