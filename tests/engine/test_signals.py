"""Signals end a program where nothing is lost, wait where something is, and insist the second time."""

import contextlib
import os
import signal
import subprocess
import sys
import time

import pytest
from programs import ROOT

from engine import signals
from engine.signals import SIGNALS, Stopped, StopSignals, outlive_first_signal


def send(number):
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize(("requeue", "is_main"), [(False, True), (True, True), (False, False)])
def test_a_signal_ends_the_program_where_nothing_is_lost(number, requeue, is_main, monkeypatch):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    before = signal.getsignal(number)
    if before == signal.SIG_IGN:
        pytest.skip("the tests run under nohup")
    with pytest.raises(SystemExit) as ended, StopSignals(requeue, is_main):
        send(number)
    assert ended.value.code == (85 if requeue else 128 + number)
    assert signal.getsignal(number) is before


def test_a_hangup_that_nohup_keeps_away_stays_away():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopSignals() as stop:
            outlive = {number: signal.getsignal(number) for number in SIGNALS}
            outlive_first_signal()
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
            for number, handler in outlive.items():
                signal.signal(number, handler)
            send(signal.SIGHUP)
            assert stop.received == 0
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_signal_waits_while_training_and_ends_the_program_after_it():
    with StopSignals() as stop:
        stop.defer()
        assert stop.received == 0
        send(signal.SIGTERM)
        assert stop.received == signal.SIGTERM
        send(signal.SIGTERM)  # the echo of a launcher
        with pytest.raises(SystemExit) as ended:
            stop.at_once()
    assert ended.value.code == 143


def test_without_a_signal_the_end_of_training_is_not_the_end():
    with StopSignals() as stop:
        stop.defer()
        stop.at_once()


def test_only_rank_0_tells_the_exit_code_of_a_stopped_run():
    assert StopSignals(is_main=True).leave(signal.SIGTERM) == 143
    assert StopSignals(is_main=False).leave(signal.SIGTERM) == 0
    assert str(Stopped(signal.SIGTERM, 7)) == "stopped by SIGTERM after step 7"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_the_program_at_once(number):
    program = """
import time
from engine.signals import StopSignals
with StopSignals() as stop:
    stop.on_second = lambda: print("killing", flush=True)
    stop.defer()
    print("ready", flush=True)
    while not stop.received: time.sleep(0.01)
    print("waiting", flush=True)
    time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        assert process.stdout.readline() == "waiting\n"
        time.sleep(signals.ECHO_SECONDS + 0.2)
        process.send_signal(number)
        assert process.wait(30) == -number
        assert process.stdout.read() == "killing\n"


def test_a_worker_outlives_the_first_signal_and_no_second_one():
    child = os.fork()
    if not child:
        outlive_first_signal()
        for number in (signal.SIGINT, signal.SIGINT, signal.SIGTERM):
            send(number)
        send(signal.SIGTERM)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGTERM


@pytest.mark.parametrize("works", [True, False])
def test_a_job_is_requeued_once_by_its_number(tmp_path, monkeypatch, caplog, works):
    program = tmp_path / "scontrol"
    if works:
        program.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/called\n')
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    monkeypatch.delenv("SLURM_ARRAY_JOB_ID", raising=False)
    assert StopSignals(requeue=True).leave(signal.SIGTERM) == 85
    assert StopSignals(requeue=True, is_main=False).leave(signal.SIGTERM) == 0
    assert not works or (tmp_path / "called").read_text() == "requeue 12\n"
    assert ("SLURM will start job 12 again" if works else "scontrol requeue 12 failed") in caplog.text


RANK = """
import os, time
from engine.signals import StopSignals, stop_with_parent
with StopSignals() as stop:
    stop.defer()
    stop_with_parent("torchrun")
    print(os.getpid(), flush=True)
    while not stop.received:
        time.sleep(0.01)
    print("told to stop", flush=True)
"""


def test_a_rank_is_told_to_stop_when_its_launcher_is_killed():
    launcher = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {RANK!r}])"
    process = subprocess.Popen([sys.executable, "-c", launcher], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    rank = int(process.stdout.readline())
    try:
        process.kill()
        assert process.stdout.readline() == "told to stop\n"
    finally:
        process.wait()
        with contextlib.suppress(ProcessLookupError):
            os.kill(rank, signal.SIGKILL)
