"""Stopping on a signal: at a place where the run can go on later, with an exit code that a scheduler understands."""

from __future__ import annotations

import _thread
import atexit
import ctypes
import logging
import multiprocessing.queues
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import NoReturn, Self

logger = logging.getLogger(__name__)

# How schedulers and terminals say that the time is over; SIGUSR1 is what SLURM users ask for by --signal, SIGHUP comes
# when a terminal or a connection goes away.
# Not every system has all.
SIGNALS = tuple(signal.Signals[name] for name in ("SIGTERM", "SIGINT", "SIGUSR1", "SIGHUP") if hasattr(signal, name))
REQUEUE_CODE = 85
# A scheduler may signal a process and, through its launcher, signal it again: that is no second request.
ECHO_SECONDS = 0.5
PARENT_PERIOD = 1.0  # seconds from look to look
GRACE = 10.0  # seconds
RANK_0 = "MASKWISE_RANK_0"  # holds the number of its process


class Stopped(Exception):  # noqa: N818  # nothing went wrong
    """The run ended early because a signal asked for it, and can be resumed.

    Attributes:
        number: the signal's, which may have come to another rank.
    """

    def __init__(self, number: int, step: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name} after step {step}")
        self.number = number


class StoppedWaiting(Stopped):
    """A signal asked for an end, and this rank waited in vain for the next place to stop at. Nothing was saved."""

    def __init__(self, number: int, step: int, seconds: float, workers: str) -> None:
        Exception.__init__(
            self,
            f"stopped by {signal.Signals(number).name} after step {step}, without a checkpoint of it: no batch has come"
            f" for {seconds:.0f} s; {workers}",
        )
        self.number = number


class StopSignals:
    """Receive the signals that ask for an end, while used as a context manager in the main thread.

    Where nothing would be lost, the first signal ends the program there and then. Between `defer` and `at_once` it only
    sets `received`, which training reads at every step. A second signal ends the program at once, wherever it is.

    Args:
        requeue: whether the job shall start again.
        is_main: whether this is rank 0; the exit codes of the other ranks say nothing, lest their launcher takes a
            rank that stopped a moment earlier for a failure.
    Attributes:
        received: the number of the first signal; 0 before it.
        on_exit: called before a signal ends the program there and then.
        on_second: called before a second signal ends this process.
    """

    def __init__(self, requeue: bool = False, is_main: bool = True) -> None:
        self._requeue = requeue
        self._is_main = is_main
        self.received = 0
        self.on_exit: Callable[[], None] = lambda: None
        self.on_second: Callable[[], None] = lambda: None
        self._time = 0.0
        self._deferred = False
        self._look: Callable[[FrameType | None], None] | None = None
        self._previous: dict[signal.Signals, signal.Handlers | int | Callable | None] = {}

    def __enter__(self) -> Self:
        self._previous = {number: signal.signal(number, self._receive) for number in SIGNALS if not _by_nohup(number)}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def defer(self) -> None:
        """From now on, let training choose the place to stop."""
        self._deferred = True

    def at_once(self) -> None:
        """From now on, end the program where a signal meets it; one that came meanwhile ends it here."""
        self._deferred = False
        if self.received:
            self._exit()

    def wake(self, look: Callable[[FrameType | None], None]) -> None:
        """Have the main thread, wherever it is or waits, call a function with its frame; it may raise there.

        Called from another thread, once a signal was received.
        """
        self._look = look
        main = threading.main_thread().ident
        if hasattr(signal, "pthread_kill") and main is not None:
            signal.pthread_kill(main, self.received)  # a system call that waits is interrupted too
        else:
            _thread.interrupt_main(signal.Signals(self.received))

    def leave(self, number: int) -> int:
        """Hand the job back to SLURM if it shall start again, and return the exit code of a run that a signal stopped.

        That is 85 if the job shall start again, else 128 and the signal's number, as of a shell; 0 beyond rank 0.
        """
        if not self._is_main:
            return 0
        if not self._requeue:
            return 128 + number
        requeue_job()
        return REQUEUE_CODE

    def _exit(self) -> NoReturn:
        self.on_exit()
        raise SystemExit(self.leave(self.received) or 128 + self.received)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self._look is not None:
            look, self._look = self._look, None
            look(frame)
        elif not self.received:
            self.received, self._time = number, now
            if not self._deferred:
                self._exit()
        elif now - self._time > ECHO_SECONDS:
            self.on_second()
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)


def outlive_first_signal() -> None:
    """Let a process that reads images work on after a signal to the whole job: training still needs its batches.

    It ends with training, or by a second signal.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for number in SIGNALS:
        if number != signal.SIGINT and not _by_nohup(number):
            signal.signal(number, lambda number, frame: signal.signal(number, signal.SIG_DFL))


def _by_nohup(number: signal.Signals) -> bool:
    """Return whether the command that started this program keeps a hang-up from it, as nohup does."""
    return number.name == "SIGHUP" and signal.getsignal(number) == signal.SIG_IGN


# Exit code of a worker that cannot say what went wrong: this and, below 50, the number of the system's error.
LOST_CODE = 200
LOST = "a batch could not be handed over"


def start_worker(worker: int = 0) -> None:
    """Begin a process that reads images: one thread, which outlives a first signal and loses no batch in silence.

    A batch leaves a worker in a thread of `multiprocessing`, which prints an error and goes on without the batch, for
    which training would wait for ever. Here the error takes the place of the batch, or, if not even that can be sent,
    the worker ends with a code that tells it. A `worker_init_fn` for a `DataLoader`.
    """
    import cv2  # the data sets have it; the programs do without until they know that their options are right

    parent = multiprocessing.parent_process()
    if parent is not None and parent.pid is not None and multiprocessing.get_start_method() != "forkserver":
        _die_with(parent.pid)  # torch looks every five seconds, and may look too late to know its parent
    cv2.setNumThreads(0)  # torch has seen to its own threads; OpenCV would start one for each core
    outlive_first_signal()
    from engine import internals  # imports torch

    internals.on_lost_object(_send_error)  # the only place where such an error is told
    # The thread that answers for shared memory and descriptors gives its errors to this, and goes on.
    sys.excepthook = lambda kind, error, trace: os._exit(_lost_code(error))


def _send_error(queue: multiprocessing.queues.Queue, error: Exception, lost: object) -> None:
    """Send an error in place of what could not be sent; called in the thread of the queue."""
    from torch.utils.data import get_worker_info

    from engine import internals

    if not isinstance(lost, tuple) or internals.is_wrapped_error(lost[1]):  # the connection itself is broken
        os._exit(_lost_code(error))
    info = get_worker_info()
    where = f"in DataLoader worker process {0 if info is None else info.id}"
    told = OSError(f"{LOST} ({type(error).__name__}: {' '.join(str(error).split())})").with_traceback(
        error.__traceback__
    )
    queue.put((lost[0], internals.wrapped_error(told, where)))


def _lost_code(error: BaseException) -> int:
    number = error.errno if isinstance(error, OSError) else None
    return LOST_CODE + (number if number is not None and number < 50 else 0)


def stop_with_parent(name: str) -> None:
    """From now on, send this process SIGTERM should its parent die.

    torchrun, when it is killed, leaves its ranks behind, and the other nodes would go on with them.

    Args:
        name: what to call the parent.
    """
    threading.Thread(target=_follow, args=(os.getppid(), name), daemon=True, name=f"{name} watch").start()


def _follow(parent: int, name: str) -> None:
    while os.getppid() == parent:
        time.sleep(PARENT_PERIOD)
    logger.error("%s has died: the run stops", name)
    os.kill(os.getpid(), signal.SIGTERM)


def watch_rank_0(is_main: bool) -> None:
    """End this process should rank 0, which has started it, die; called by each rank before it does anything else.

    Rank 0 tells the others by an environment variable who it is: by the time they look, their parent can be another.
    They have time for an error or the end of the run to get there first.
    """
    if is_main:
        os.environ[RANK_0] = str(os.getpid())
    elif RANK_0 in os.environ:
        parent = int(os.environ[RANK_0])
        atexit.register(_die_with, parent)  # threads do not run to the very end
        threading.Thread(target=_end_without, args=(parent,), daemon=True, name="rank 0 watch").start()


def _end_without(rank_0: int) -> None:
    while os.getppid() == rank_0:
        time.sleep(PARENT_PERIOD)
    time.sleep(GRACE)
    logger.error("rank 0 has died: this rank ends too")
    os._exit(1)


def _die_with(parent: int) -> None:
    """Have Linux kill this process as soon as its parent, or the thread of it that started it, ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, 9)  # PR_SET_PDEATHSIG, SIGKILL
        if os.getppid() != parent:
            os._exit(1)


def requeue_job() -> None:
    """Tell SLURM to start this job again; outside SLURM the exit code must do."""
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    job = f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}" if array else os.environ.get("SLURM_JOB_ID")
    if job is None:
        return
    try:
        done = subprocess.run(
            ["scontrol", "requeue", job], capture_output=True, text=True, timeout=60, encoding="utf-8", errors="replace"
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        logger.error("--requeue: scontrol requeue %s failed (%s)", job, error)
        return
    if done.returncode:
        logger.error("--requeue: scontrol requeue %s failed (%s)", job, done.stderr.strip())
    else:
        logger.warning("--requeue: SLURM will start job %s again", job)
