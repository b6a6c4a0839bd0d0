"""What a thread waits for, as another one sees it."""

import multiprocessing
import os
import signal
import threading
import time

import pytest
from torch.utils.data import DataLoader, dataloader

from callbacks import processes
from callbacks.stalls import describe_wait


class Gate:
    """Ten numbers, one of which waits for an event."""

    def __init__(self, closed, event):
        self._closed, self._event = closed, event

    def __len__(self):
        return 10

    def __getitem__(self, index):
        if index == self._closed:
            self._event.wait(60)
        return index


@pytest.mark.parametrize("closed", [5, 2])
def test_the_worker_whose_batch_is_next_is_named_with_its_state(closed):
    event, said, workers = multiprocessing.Event(), [], []
    iterator = iter(DataLoader(Gate(closed, event), batch_size=None, num_workers=2))
    reader = threading.get_ident()

    def observe():
        while iterator._rcvd_idx < closed:
            time.sleep(0.01)
        time.sleep(0.2)
        said.append(describe_wait(reader, num_ranks=2))
        workers.extend(processes.workers())
        event.set()

    observer = threading.Thread(target=observe)
    observer.start()
    assert list(iterator) == list(range(10))
    observer.join()
    assert workers == [worker.pid for worker in iterator._workers]
    pid = workers[closed % 2]
    assert said[0].startswith(f"waits for worker {closed % 2} (process {pid}, sleeping")
    assert said[0].endswith(") of the data loader")


def test_a_stopped_worker_is_named_too_when_another_one_is_awaited():
    """It may hold the lock of the queue that all workers answer through."""
    event, said = multiprocessing.Event(), []
    iterator = iter(DataLoader(Gate(5, event), batch_size=None, num_workers=2))
    stopped, reader = iterator._workers[0].pid, threading.get_ident()

    def observe():
        while iterator._rcvd_idx < 5:
            time.sleep(0.01)
        os.kill(stopped, signal.SIGSTOP)
        while not said or "stopped" not in said[-1]:
            said.append(describe_wait(reader))
        os.kill(stopped, signal.SIGCONT)
        event.set()

    observer = threading.Thread(target=observe)
    observer.start()
    assert list(iterator) == list(range(10))
    observer.join()
    assert said[-1].startswith("waits for worker 1 (process ")
    assert f"worker 0 (process {stopped}, stopped" in said[-1]


def test_while_workers_start_those_that_are_there_are_named(monkeypatch):
    said = []
    whole = dataloader._MultiProcessingDataLoaderIter._reset
    start = multiprocessing.Process.start

    def observe(function):
        def observed(*args, **kwargs):
            observer = threading.Thread(target=lambda: said.append(describe_wait(reader)))
            observer.start()
            observer.join()
            return function(*args, **kwargs)

        return observed

    reader = threading.get_ident()
    monkeypatch.setattr(dataloader._MultiProcessingDataLoaderIter, "_reset", observe(whole))
    monkeypatch.setattr(multiprocessing.Process, "start", observe(start))
    iterator = iter(DataLoader(range(2), num_workers=2))
    first, second = (worker.pid for worker in iterator._workers)
    assert said[0] == "waits for the first worker of the data loader"
    assert said[1].startswith(f"waits for worker 0 (process {first}, ")
    assert f"worker 0 (process {first}, " in said[2] and f"worker 1 (process {second}, " in said[2]
    assert len(list(iterator)) == 2


def test_elsewhere_the_line_of_code_is_told_and_a_thread_that_is_over_is_none():
    def wait():
        event.wait()

    event, thread = threading.Event(), threading.Thread(target=lambda: wait())
    thread.start()
    time.sleep(0.1)
    said = describe_wait(thread.ident)
    event.set()
    thread.join()
    assert said.startswith("is or waits in wait (") and "threading.py:" in said
    assert ", from wait (callbacks/test_stalls.py:" in said and "rank" not in said
    assert describe_wait(thread.ident) == "is not there"


def test_processes_are_described_and_those_that_are_gone_have_no_memory():
    own = os.getpid()
    assert processes.describe(own).startswith(f"process {own}, running")
    assert 5e7 < processes.resident_bytes(own) < 1e11
    gone = 2**22 + 1
    assert (processes.describe(gone), processes.resident_bytes(gone)) == (f"process {gone}", None)
