"""A wait for workers that a signal does not end by itself, and what is said of the workers."""

import multiprocessing
import os
import signal
import threading
import time
from types import SimpleNamespace

import pytest
from torch.utils.data import DataLoader

from engine.callbacks import bounded_waits, workers
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


def test_the_workers_are_named_and_which_of_them_is_stopped():
    event = multiprocessing.Event()
    iterator = iter(DataLoader(Gate(5, event), batch_size=None, num_workers=2))
    first, second = (worker.pid for worker in iterator._workers)
    assert workers.workers() == [first, second]
    os.kill(first, signal.SIGSTOP)
    stopped = f"the workers of the data loader are process {first} (stopped), process {second}"
    deadline = time.monotonic() + 20
    while workers.describe_workers() != stopped and time.monotonic() < deadline:
        time.sleep(0.01)
    assert workers.describe_workers() == stopped
    os.kill(first, signal.SIGCONT)
    event.set()
    assert list(iterator) == list(range(10))
    assert "stopped" not in workers.describe_workers()


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
    monkeypatch.setattr(workers, "STOP_SECONDS", 0.5)
    monkeypatch.setattr(workers, "_LOOK_SECONDS", 0.05)
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
    assert said.startswith("stopped by SIGTERM after step 7, without a checkpoint of it: no batch has come for ")
    named = f"process {pids[0]}{' (stopped)' * stopped}, process {pids[1]}"
    assert " s; the workers of the data loader are " in said and named in said


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


def test_a_process_that_is_gone_has_no_memory():
    assert 5e7 < workers.resident_bytes(os.getpid()) < 1e11
    assert workers.resident_bytes(2**22 + 1) is None
