"""Errors of workers become one line; others stay what they are."""

import contextlib
import re
import signal
import time

import pytest
import torch
from torch.utils.data import DataLoader

from datasets import UnreadableImageError
from engine.callbacks import WorkerError, named_worker_errors
from engine.callbacks.workers import workers
from engine.signals import start_worker

LIKELY = ", probably out of memory: lower --num_workers"


class Failing:
    """Numbers, one of which is an error."""

    def __init__(self, error):
        self._error = error

    def __len__(self):
        return 4

    def __getitem__(self, index):
        if index == 3:
            raise self._error
        return index


def read(error):
    iterator = iter(DataLoader(Failing(error), batch_size=None, num_workers=2))
    try:
        with named_worker_errors():
            list(iterator)
    finally:
        iterator._shutdown_workers()


@pytest.mark.parametrize(
    ("error", "shown"),
    [
        (OSError(5, "Input/output error"), r"OSError: [Errno 5] Input/output error"),
        (UnreadableImageError("a.png", "is empty"), "UnreadableImageError: a.png: is empty"),
        (ValueError("first line\nsecond: line"), "ValueError: first line"),
        (MemoryError(), "MemoryError"),
    ],
)
def test_what_a_worker_cannot_read_is_one_line_with_its_place(error, shown):
    with pytest.raises(WorkerError) as found:
        read(error)
    expected = (
        rf"worker 1 of the data loader: {re.escape(shown)} \(test_worker_failure.py:\d+\); the run ends, resume .*"
    )
    assert re.fullmatch(expected, str(found.value))


class Tensors:
    """Tensors, which a worker hands over through a connection of its own."""

    def __len__(self):
        return 4

    def __getitem__(self, index):
        return torch.zeros(10)


@pytest.mark.parametrize("known", [True, False])
def test_a_batch_whose_worker_has_just_died_is_that_worker_s_death(monkeypatch, known):
    iterator = iter(DataLoader(Tensors(), batch_size=None, num_workers=1))
    (worker,) = iterator._workers
    while iterator._worker_result_queue.empty():
        time.sleep(0.01)
    handler = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    worker.kill()
    worker.join()
    signal.signal(signal.SIGCHLD, handler)
    monkeypatch.setattr(worker, "is_alive", lambda: not known)
    with pytest.raises(WorkerError) as found, named_worker_errors():
        next(iterator)
    how = "ended unexpectedly" if known else "was killed by SIGKILL"
    expected = f"a worker of the data loader (process {worker.pid}) {how}{LIKELY}; the run ends, resume it"
    assert str(found.value).startswith(expected)


@pytest.mark.parametrize("defect", [TypeError("ours"), KeyError("ours"), ZeroDivisionError("ours")])
def test_a_defect_in_a_worker_keeps_its_traceback(defect):
    with pytest.raises(type(defect), match=r"Caught .* in DataLoader worker process 1(.|\n)*Traceback"):
        read(defect)


@pytest.mark.parametrize("error", [RuntimeError("other"), ValueError("other"), OSError(2, "other")])
def test_what_comes_from_no_worker_is_raised_as_it_is(error):
    with pytest.raises(type(error)) as found, named_worker_errors():
        raise error
    assert found.value is error


@pytest.mark.parametrize(
    ("messages", "line"),
    [
        (["(pid 7) is killed by signal: Killed. "], f"(process 7) was killed by SIGKILL{LIKELY}"),
        (["(pid 7) is killed by signal: Segmentation fault. "], "(process 7) was killed by SIGSEGV"),
        (
            ["(pid 7) is killed by signal: Killed. ", "(pid(s) 7) exited unexpectedly"],
            f"(process 7) was killed by SIGKILL{LIKELY}",
        ),
        (["(pid(s) 7, 8) exited unexpectedly"], f"(process 7, 8) ended unexpectedly{LIKELY}"),
        (["(pid 7) exited unexpectedly with exit code 3. Details are lost"], "(process 7) ended with exit code 3"),
    ],
)
def test_a_worker_that_dies_is_one_line(messages, line):
    error = None
    for message in messages:
        cause, error = error, RuntimeError(f"DataLoader worker {message}")
        error.__cause__ = cause
    with pytest.raises(WorkerError) as found, named_worker_errors():
        raise error
    assert str(found.value) == f"a worker of the data loader {line}; the run ends, resume it from its last checkpoint"


@pytest.mark.parametrize("error", [None, KeyError("a defect")])
def test_no_worker_is_left_for_python_to_wait_for_at_its_exit(error):
    loader = DataLoader(range(8), batch_size=None, num_workers=2, worker_init_fn=start_worker)
    with contextlib.suppress(KeyError), named_worker_errors():
        iterator = iter(loader)
        next(iterator)
        started = workers()
        assert len(started) == 2
        if error is not None:
            raise error
    assert workers() == []
    del iterator  # torch asks them to end, and they are gone
