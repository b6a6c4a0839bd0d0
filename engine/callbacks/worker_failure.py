"""A worker of a data loader that dies, or meets what it cannot read, ends the run with one line that says what."""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from engine.internals import worker_exit_codes
from engine.signals import LOST, LOST_CODE

# Messages of torch 2: of its handler of SIGCHLD, of the loop that waits for a batch, of an error passed on.
_KILLED = re.compile(r"DataLoader worker \(pid (\d+)\) is killed by signal: (.+?)\. ")
_ENDED = re.compile(r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\) exited unexpectedly(?: with exit code (\d+))?")
# With the last place of its traceback and the first line behind it that is not indented: the error, without its module.
_CAUGHT = re.compile(
    r"Caught \w+ in DataLoader worker process (?P<worker>\d+)\."
    r'.*\n  File "(?P<file>[^"\n]+)", line (?P<line>\d+).*?\n(?:\w+\.)*(?P<error>\w.*?)$',
    re.DOTALL | re.MULTILINE,
)
_LIKELY = {
    "SIGKILL": ", probably out of memory: lower --num_workers",
    "SIGBUS": ": a file that it reads was cut short, or shared memory is full: lower --num_workers",
}
# What runs out between processes, by the words of the system, of torch and of Python, and what to do about it.
_EXHAUSTED = (
    (
        re.compile(r"Too many open files|\[Errno 24\]|received 0 items of ancdata"),
        "too many open files: raise the limit (`ulimit -n 4096`) or lower --num_workers",
    ),
    (
        re.compile(r"No space left on device|\[Errno 28\]|shared memory|</?torch_\d|torch_shm_manager"),
        "shared memory (/dev/shm) is full: make it larger (Docker: --shm-size 8g), lower --batch_size, or use"
        " --num_workers 0",
    ),
    (re.compile(r"Cannot allocate memory|\[Errno 12\]"), "memory is exhausted: lower --num_workers"),
)
_BETWEEN_PROCESSES = re.compile(r"[/\\](multiprocessing|torch[/\\]utils[/\\]data)[/\\]")
_SECONDS_TO_DIE = 5.0  # one that waits for a disk may not die at all
_END = "; the run ends, resume it from its last checkpoint"


class WorkerError(RuntimeError):
    """A worker of a data loader died or met an error."""


@contextmanager
def named_worker_errors() -> Iterator[None]:
    """Within the block, turn what torch raises about a worker into a `WorkerError` of one line; no worker outlives it.

    Errors of a worker that can come from what it reads or from the machine are meant: OSError, ValueError, MemoryError
    and torch's RuntimeError. Others are defects of ours and keep their traceback.
    """
    try:
        yield
    except (RuntimeError, OSError, EOFError, ValueError, MemoryError) as error:
        line = _explain(error)
        if line is None:
            raise
        raise WorkerError(line) from error
    finally:
        _end_workers()


def _end_workers() -> None:
    """End the workers that are left, for which Python would wait at its exit.

    One that is stopped does not hear a request to end, and one that reads images takes the first for the whole job's.
    """
    workers = [process for process in multiprocessing.active_children() if process.daemon]
    if not workers:
        return
    with _children_unwatched():
        for process in workers:
            process.kill()
            process.join(_SECONDS_TO_DIE)


@contextmanager
def _children_unwatched() -> Iterator[None]:
    """Keep torch from taking the death of a worker for another failure, and raising it wherever the program is."""
    if not hasattr(signal, "SIGCHLD"):  # on Windows torch hears of no death
        yield
        return
    handler = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGCHLD, handler or signal.SIG_DFL)


def _explain(error: BaseException) -> str | None:
    for pid, code in _exit_codes(error).items():
        if code >= LOST_CODE:  # what else is said is a consequence
            return _ended_line(str(pid), code)
    messages = [str(each) for each in _chain(error)]
    for pattern, describe in ((_KILLED, _describe_killed), (_ENDED, _describe_ended), (_CAUGHT, _describe_caught)):
        for message in messages:
            if (match := pattern.search(message)) is not None:
                return describe(match)
    if any("Pin memory thread exited unexpectedly" in message for message in messages):
        # Its own error went to the terminal; what it can lack, other than memory, is a descriptor for each tensor.
        return f"the thread that pins memory for the GPU ended, perhaps by {_EXHAUSTED[0][1]}{_END}"
    return _explain_exhausted(error) or _explain_lost(error)


def _explain_exhausted(error: BaseException) -> str | None:
    """Explain what ran out in the main process, while it started a worker or took a batch from one."""
    frames = [frame for each in _chain(error) for frame, _ in traceback.walk_tb(each.__traceback__)]
    if not any(_BETWEEN_PROCESSES.search(frame.f_code.co_filename) for frame in frames):
        return None
    found = next(filter(None, (_exhausted(str(each)) for each in _chain(error))), None)
    return None if found is None else f"the data loader: {found}{_END}"


def _exhausted(text: str) -> str | None:
    return next((remedy for pattern, remedy in _EXHAUSTED if pattern.search(text)), None)


def _explain_lost(error: BaseException) -> str | None:
    """Explain a batch that was not handed over: its worker broke the connection, and was not yet known to be dead."""
    if not isinstance(error, OSError | EOFError) or not (codes := _exit_codes(error)):
        return None
    pid, code = next(((pid, code) for pid, code in codes.items() if code < 0), (None, 0))
    if pid is None:
        return f"a worker of the data loader ended unexpectedly{_LIKELY['SIGKILL']}{_END}"
    return _killed_line(str(pid), signal.Signals(-code).name)


def _exit_codes(error: BaseException) -> dict[int, int]:
    """Return the exit codes of the workers of the loader that an error came from, by process; 0 while they live."""
    return worker_exit_codes(frame for each in _chain(error) for frame, _ in traceback.walk_tb(each.__traceback__))


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and those that it followed from: the signal's comes while a batch is waited for."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _describe_killed(match: re.Match[str]) -> str:
    names = {signal.strsignal(number): signal.Signals(number).name for number in signal.valid_signals() if number < 32}
    return _killed_line(match[1], names.get(match[2], match[2]))


def _killed_line(pid: str, name: str) -> str:
    return f"a worker of the data loader (process {pid}) was killed by {name}{_LIKELY.get(name, '')}{_END}"


def _describe_ended(match: re.Match[str]) -> str:
    return _ended_line(match[1], None if match[2] is None else int(match[2]))


def _ended_line(pid: str, code: int | None) -> str:
    if code is None:
        how = f"ended unexpectedly{_LIKELY['SIGKILL']}"
    elif code >= LOST_CODE:
        reason = f"[Errno {code - LOST_CODE}] {os.strerror(code - LOST_CODE)}"
        how = f"ended, because {LOST}{f': {_exhausted(reason) or reason}' if code > LOST_CODE else ''}"
    else:
        how = f"ended with exit code {code}"
    return f"a worker of the data loader (process {pid}) {how}{_END}"


def _describe_caught(match: re.Match[str]) -> str:
    place = f"{Path(match['file']).name}:{match['line']}"
    remedy = _exhausted(match["error"]) if LOST in match["error"] else None
    cause = f"{match['error']} ({place})" if remedy is None else f"{remedy}; {match['error']}"
    return f"worker {match['worker']} of the data loader: {cause}{_END}"
