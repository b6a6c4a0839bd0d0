"""The programs run as a user runs them, for tests of several folders."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# Small enough for seconds, large enough for a batch of 16 with 4 images each, ten folds and two ranks.
SMALL_RUN = [
    *("--arch", "ir_tiny", "--embedding_size", "32", "--batch_size", "16", "--optimizer", "adamw", "--lr", "1e-3"),
    *("--num_workers", "0", "--log_every_n_steps", "1", "--gpus", "0"),
]


def program(name, *argv, cwd, check=True, **environment):
    """Run `python name argv` in the folder cwd and return the finished process."""
    done = subprocess.run(
        [sys.executable, str(ROOT / name), *map(str, argv)],
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200", **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


def refusal(capsys, program_main, *argv):
    """Return the one line on stderr with which the program refuses argv."""
    with pytest.raises(SystemExit) as raised:
        program_main([str(word) for word in argv])
    assert raised.value.code == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if ": error: " in line]
    assert len(lines) == 1 and len(lines[0]) < 2000
    return lines[0]


def kill_group(process):
    """Kill a process of multiprocessing, and all that it leads where it leads a group: stopped workers too."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        process.kill()
    process.join()
