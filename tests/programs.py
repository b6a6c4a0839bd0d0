"""The programs run as a user runs them, for tests of several folders."""

import atexit
import gc
import multiprocessing
import os
import runpy
import signal
import sys
import tempfile
from pathlib import Path
from subprocess import CompletedProcess

import pytest

ROOT = Path(__file__).resolve().parent.parent

# Small enough for seconds, large enough for a batch of 16 with 4 images each, ten folds and two ranks.
SMALL_RUN = [
    *("--arch", "ir_tiny", "--embedding_size", "32", "--batch_size", "16", "--optimizer", "adamw", "--lr", "1e-3"),
    *("--num_workers", "0", "--log_every_n_steps", "1", "--gpus", "0"),
]


def program(name, *argv, cwd, check=True, **environment):
    """Run `python name argv`, with "-m module" as a name too, in the folder cwd and return the finished process.

    It begins as a fork of a server that has imported PyTorch and Lightning: to start Python takes three seconds more.
    """
    from gloo_ranks import forkserver  # PyTorch is not for the process of xdist that hands the tests out

    words = [*name.split(), *map(str, argv)]
    with tempfile.TemporaryDirectory() as folder:
        outputs = [Path(folder) / "stdout", Path(folder) / "stderr"]
        told = {"OMP_NUM_THREADS": "1", "COLUMNS": "200", **{key: str(value) for key, value in environment.items()}}
        process = forkserver().Process(target=_as_main, args=(words, cwd, outputs, {**os.environ, **told}))
        process.start()
        process.join(600)
        code = process.exitcode
        kill_group(process)
        stdout, stderr = (path.read_text(encoding="utf-8") for path in outputs)
    assert code is not None and (not check or code == 0), stdout + stderr
    return CompletedProcess(words, code, stdout, stderr)


def _as_main(words, cwd, outputs, environment):
    import torch

    os.setpgrp()  # whoever ends this process early ends its workers too
    gc.freeze()  # a run asks for a collection in each validation
    multiprocessing.set_start_method(None, force=True)  # as in a program that nobody started by multiprocessing
    torch.set_num_threads(1)
    for handle, path in enumerate(outputs, start=1):
        with path.open("wb") as stream:
            os.dup2(stream.fileno(), handle)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    try:
        if words[0] == "-m":
            sys.argv = words[1:]
            runpy.run_module(words[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv = [str(ROOT / words[0]), *words[1:]]
            runpy.run_path(sys.argv[0], run_name="__main__")
    finally:
        atexit._run_exitfuncs()  # a process of multiprocessing ends without them


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
