"""Two processes never write one folder: the second one is told who has it, and changes nothing."""

import errno
import fcntl
import os
import re
import subprocess
import sys
import time

import pytest
from broken_runs import FLAGS, finish, output, run_folder, start
from programs import ROOT, program
from short_runs import write_faces

from engine import runs

HOLDER = (
    "import time; from engine import runs; from pathlib import Path; "
    "lock = runs.lock_folder(Path({!r})); print(1, flush=True); "
)


def hold(folder, then="time.sleep(60)"):
    """Start a process that has locked a folder."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER.format(str(folder)) + then], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "1\n"
    return process


def test_a_second_process_is_told_who_has_the_folder_until_that_dies(tmp_path):
    with hold(tmp_path) as first:
        with pytest.raises(ValueError, match=rf"is in use by process {first.pid} on \S+ since 20\d\d-.*; wait until"):
            runs.lock_folder(tmp_path)
        first.kill()
        first.wait()
        runs.lock_folder(tmp_path).close()


def test_a_forked_worker_that_is_left_does_not_hold_the_lock_on(tmp_path):
    fork = "import os; pid = os.fork(); print(pid, flush=True) if pid else None; time.sleep(60)"
    with hold(tmp_path, fork) as first:
        worker = int(first.stdout.readline())
        first.kill()
        first.wait()
        try:
            os.kill(worker, 0)
            runs.lock_folder(tmp_path).close()
        finally:
            os.kill(worker, 9)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_where_there_are_no_locks_a_line_says_so_and_the_run_goes_on(tmp_path, monkeypatch, caplog, number):
    def fail(*args):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "lockf", fail)
    runs.lock_folder(tmp_path).close()
    assert "this file system has no locks" in caplog.text
    monkeypatch.setitem(sys.modules, "fcntl", None)  # as on Windows
    runs.lock_folder(tmp_path).close()
    assert len(caplog.messages) == 2


def test_a_text_in_the_lock_file_cannot_reach_the_terminal_raw(tmp_path):
    write = f"open({str(tmp_path / runs.LOCK_FILE)!r}, 'r+').write('\\x1b[2J' + 999 * 'x'); "
    # Closing the file lets go of the lock: another process writes into it.
    with hold(tmp_path) as first:
        subprocess.run([sys.executable, "-c", write], check=True)
        with pytest.raises(ValueError) as refused:
            runs.lock_folder(tmp_path)
        assert "\x1b" not in str(refused.value) and len(str(refused.value)) < 600
        first.kill()


@pytest.mark.slow
def test_a_run_is_not_resumed_while_it_goes_on(tmp_path):
    flags = [*FLAGS, "--data_root", str(write_faces(tmp_path / "faces")), "--epochs", "10000"]
    (first,) = processes = start(flags, tmp_path)
    try:
        deadline = time.monotonic() + 120
        while not all(list(tmp_path.glob(f"experiments/*/{name}")) for name in ("last.ckpt", "metrics.csv")):
            assert time.monotonic() < deadline and first.is_alive(), output(tmp_path)
            time.sleep(0.2)
        folder = run_folder(tmp_path)
        rows = (folder / "metrics.csv").stat().st_size
        done = program("main.py", *flags, cwd=tmp_path, check=False)
        assert first.is_alive() and (folder / "metrics.csv").stat().st_size >= rows
    finally:
        first.kill()
        finish(processes)
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if "is in use by" in line]
    assert re.search(rf"{folder.name} is in use by process {first.pid} on", line)


def test_two_evaluations_do_not_write_one_folder(tmp_path):
    flags = ["--model-path", "none.ckpt", "--data-path", "none", "--output-dir", str(tmp_path)]
    with hold(tmp_path) as first:
        done = program("main_eval.py", *flags, cwd=tmp_path, check=False)
        first.kill()
    assert done.returncode == 2 and f"is in use by process {first.pid} on" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == [runs.LOCK_FILE]
