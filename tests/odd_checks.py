"""Checks of a GPU that go wrong in every way, for `benchmarks/test_gpu_part.py`."""

import importlib
import os
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.gpu.case import Case, NotRunError, expect


def _lack(device):
    raise NotRunError("needs a CUDA device")


def _start_what_hangs(device):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    Path(os.environ["GRANDCHILD"]).write_text(str(child.pid))
    child.wait()


def cases(on_gpu):
    checks = {
        "passes": lambda device: {"figure": 2.5},
        "is wrong": lambda device: expect("the figure", float("nan"), 1.0),
        "lacks a module": lambda device: importlib.import_module("no_such_module"),
        "lacks a device": _lack,
        "hangs": lambda device: time.sleep(600),
        "comes between": lambda device: {},  # in a new process, which is given time to start
        "starts what hangs": _start_what_hangs,
        "dies": lambda device: os._exit(3),
        "raises": lambda device: {}["nothing"],
        "measures no number": lambda device: {"figure": float("nan")},
        "passes after all of them": lambda device: {},
    }
    return {name: Case(check, 1.0) for name, check in checks.items()}
