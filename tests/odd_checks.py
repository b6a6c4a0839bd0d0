"""Checks of a GPU that go wrong in every way, for `benchmarks/test_gpu_part.py`."""

import importlib
import os
import time

from benchmarks.gpu.case import Case, NotRunError, expect


def _lack(device):
    raise NotRunError("needs a CUDA device")


def cases(on_gpu):
    checks = {
        "passes": lambda device: {"figure": 2.5},
        "is wrong": lambda device: expect("the figure", float("nan"), 1.0),
        "lacks a module": lambda device: importlib.import_module("no_such_module"),
        "lacks a device": _lack,
        "hangs": lambda device: time.sleep(600),
        "dies": lambda device: os._exit(3),
        "raises": lambda device: {}["nothing"],
        "passes after all of them": lambda device: {},
    }
    return {name: Case(check, 1.0) for name, check in checks.items()}
