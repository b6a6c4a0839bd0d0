"""What a thread waits for, as another one sees it."""

import multiprocessing
import os
import signal
import threading
import time
from types import SimpleNamespace

import pytest
from torch.utils.data import DataLoader, dataloader

from engine.callbacks import processes, stalls
from engine.callbacks.stalls import bounded_waits, describe_wait
from engine.signals import StoppedWaiting, StopSignals


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


class Slow:
    """Numbers that take their time."""

    def __init__(self, seconds):
        self._seconds = seconds

    def __len__(self):
        return 6

    def __getitem__(self, index):
        time.sleep(self._seconds)
        return index


@pytest.fixture
def stop(monkeypatch):
    """Signals that training defers to its next step; a wait of half a second is too long."""
    monkeypatch.setattr(stalls, "STOP_SECONDS", 0.5)
    monkeypatch.setattr(stalls, "_LOOK_SECONDS", 0.05)
    with StopSignals() as signals:
        signals.defer()
        yield signals


TRAINER = SimpleNamespace(global_step=7, world_size=1)


@pytest.mark.parametrize("stopped", [True, False], ids=["stopped", "hanging"])
def test_a_wait_for_a_worker_ends_a_while_after_one_signal_and_says_what_was_waited_for(stop, stopped):
    event = multiprocessing.Event()
    iterator = iter(DataLoader(Gate(2, event), batch_size=None, num_workers=2))
    pids = [worker.pid for worker in iterator._workers]
    threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGTERM)).start()
    begin = time.monotonic()
    try:
        with pytest.raises(StoppedWaiting) as raised, bounded_waits(stop, TRAINER):
            for _ in iterator:
                if stopped:
                    os.kill(pids[0], signal.SIGSTOP)
        assert 0.9 < time.monotonic() - begin < 8
    finally:
        os.kill(pids[0], signal.SIGCONT)
        event.set()
    assert raised.value.number == signal.SIGTERM
    said = str(raised.value)
    assert said.startswith(
        "stopped by SIGTERM after step 7, without a checkpoint of it: the main process waits for worker"
    )
    # Worker 1 before it, if worker 0 was stopped with the lock of their queue in its hand.
    assert f"worker 0 (process {pids[0]}, {'stopped' if stopped else 'sleeping'}" in said


def test_without_a_signal_no_wait_is_too_long(stop):
    event = multiprocessing.Event()
    iterator = iter(DataLoader(Gate(2, event), batch_size=None, num_workers=2))
    threading.Timer(1.5, event.set).start()
    with bounded_waits(stop, TRAINER):
        assert len(list(iterator)) == 10


def test_after_a_signal_neither_long_steps_nor_a_loader_that_delivers_is_cut_short(stop):
    with bounded_waits(stop, TRAINER):
        os.kill(os.getpid(), signal.SIGTERM)
        for number in DataLoader(Slow(0.3), batch_size=None, num_workers=1):
            time.sleep(1.5 if number == 2 else 0)
    assert stop.received == signal.SIGTERM and number == 5


def test_a_batch_that_comes_at_the_last_moment_is_taken(stop, monkeypatch):
    """From the decision to its effect the main thread goes on."""
    wake = StopSignals.wake
    calls = []

    def late(self, look):
        calls.append(look)
        event.set()
        time.sleep(0.5)
        wake(self, look)

    event = multiprocessing.Event()
    monkeypatch.setattr(StopSignals, "wake", late)
    os.kill(os.getpid(), signal.SIGTERM)
    with bounded_waits(stop, TRAINER):
        assert len(list(DataLoader(Gate(2, event), batch_size=None, num_workers=2))) == 10
        time.sleep(1)
    assert len(calls) == 1


def test_processes_are_described_and_those_that_are_gone_have_no_memory():
    own = os.getpid()
    assert processes.describe(own).startswith(f"process {own}, running")
    assert 5e7 < processes.resident_bytes(own) < 1e11
    gone = 2**22 + 1
    assert (processes.describe(gone), processes.resident_bytes(gone)) == (f"process {gone}", None)
