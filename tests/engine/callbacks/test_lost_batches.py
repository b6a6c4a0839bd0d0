"""Whatever fails between a finished batch and the main process ends the run with one line that names it."""

import errno
import multiprocessing.connection
import os
import re
import subprocess
import sys

import pytest
import torch
from programs import ROOT
from short_runs import write_faces
from torch.utils.data import DataLoader

from engine.callbacks import WorkerError, named_worker_errors
from engine.signals import start_worker

SHARED_MEMORY = r"shared memory \(/dev/shm\) is full: make it larger \(Docker: --shm-size 8g\)"
DESCRIPTORS = r"too many open files: raise the limit \(`ulimit -n 4096`\)"


class Unsendable:
    """Raises as it is pickled, which is done after the sample was made."""

    def __init__(self, error):
        self._error = error

    def __reduce__(self):
        raise self._error


class Samples:
    def __init__(self, sample):
        self._sample = sample

    def __len__(self):
        return 4

    def __getitem__(self, index):
        return self._sample


def refusal(sample, start=start_worker):
    """Return the line of a loader whose batches get lost; with the time limit a batch that is waited for fails."""
    loader = DataLoader(Samples(sample), batch_size=None, num_workers=1, worker_init_fn=start, timeout=30)
    with pytest.raises(WorkerError) as found, named_worker_errors():
        list(loader)
    assert "\n" not in str(found.value)
    return str(found.value)


@pytest.mark.parametrize(
    ("error", "shown"),
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), SHARED_MEMORY),
        (RuntimeError("unable to allocate shared memory(shm) for file </torch_1_2>: (28)"), SHARED_MEMORY),
        (OSError(errno.EMFILE, os.strerror(errno.EMFILE)), DESCRIPTORS),
        (TypeError("cannot pickle 'generator' object"), "TypeError: cannot pickle 'generator' object"),
        (MemoryError("first\nsecond"), "MemoryError: first second"),
    ],
)  # fmt: skip
def test_what_cannot_be_packed_is_one_line_with_its_cause(error, shown, capfd):
    line = refusal(Unsendable(error))
    assert line.startswith("worker 0 of the data loader: ") and "a batch could not be handed over" in line
    assert re.search(shown, line)
    shown = capfd.readouterr().err
    assert "Traceback" not in shown, shown


def broken_connection(worker):
    """Let the thread that sends batches fail where their bytes are written."""
    start_worker(worker)

    def fail(connection, data):
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    multiprocessing.connection.Connection._send_bytes = fail


def broken_listener(worker):
    """Let the thread fail that the main process asks for the descriptors of shared memory."""
    start_worker(worker)

    def fail(listener):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    multiprocessing.connection.Listener.accept = fail


@pytest.mark.parametrize(
    ("sample", "start", "shown"),
    [(1, broken_connection, "memory is exhausted"), (torch.zeros(9), broken_listener, "too many open files")],
)
def test_a_worker_that_cannot_send_anything_ends_with_a_code_that_tells_why(sample, start, shown, capfd):
    line = refusal(sample, start)
    assert line.startswith("a worker of the data loader (process ") and shown in line
    shown = capfd.readouterr().err
    assert "Traceback" not in shown, shown


@pytest.mark.parametrize(
    "error", [OSError(errno.EMFILE, "Too many open files"), OSError(errno.ENOSPC, "No space left on device")]
)
def test_what_runs_out_where_a_worker_is_started_is_one_line(monkeypatch, error):
    def fail(*args, **options):
        raise error

    monkeypatch.setattr(multiprocessing.connection, "Pipe", fail)
    assert refusal(1).startswith("the data loader: ")


def test_the_end_of_the_thread_that_pins_memory_is_one_line():
    with pytest.raises(WorkerError, match=r"the thread that pins memory .*`ulimit -n"), named_worker_errors():
        raise RuntimeError("Pin memory thread exited unexpectedly")


def test_what_runs_out_elsewhere_is_raised_as_it_is():
    error = OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(OSError) as found, named_worker_errors():
        raise error
    assert found.value is error


TRAIN = (
    "--arch ir_tiny --embedding_size 16 --batch_size 32 --num_workers 2 --gpus 0 --epochs 1 --lr 0.01 "
    "--val_occlusion none --data_root"
)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("limit", "shown"), [("mount -t tmpfs -o size=1m none /dev/shm", SHARED_MEMORY), ("ulimit -n 40", DESCRIPTORS)]
)
def test_a_run_that_has_too_little_of_it_ends_with_one_line(tmp_path, limit, shown):
    shell = ["unshare", "-m", "sh", "-c"] if "mount" in limit else ["bash", "-c"]
    if subprocess.run([*shell, limit], capture_output=True).returncode:
        pytest.skip(f"{limit!r} is not permitted here")
    faces = write_faces(tmp_path / "faces", images=48)  # as many batches as both workers may have ready
    command = f"{limit} && exec {sys.executable} {ROOT / 'main.py'} {TRAIN} {faces}"
    done = subprocess.run([*shell, command], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if " ERROR " in line]
    assert re.search(shown, line) and "Traceback" not in done.stderr
