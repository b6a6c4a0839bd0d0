"""`make gpu` rehearsed on the CPU: every check that can run there passes, and what goes wrong costs itself alone."""

import json
import os
import subprocess
import sys

import pytest
import torch
from programs import ROOT

from benchmarks.gpu import figures, kernels, marked_tests, matchers, scaling, updates
from benchmarks.gpu.case import NotRunError
from benchmarks.gpu.runner import Plan, run_part

CPU = torch.device("cpu")
MODULES = (kernels, matchers, updates, scaling, marked_tests, figures)
# What a machine with a GPU may lack; PyTorch brings numpy, or goes without.
ABSENT = ("cv2", "hypothesis", "matplotlib", "numcodecs", "pytest", "pytorch_lightning", "rich", "safetensors")
NEED_A_DEVICE = ("kernel", "marked tests", "no wait", "matcher: no wait", "figure: compiled")
ABSENT = (*ABSENT, "sklearn", "torchmetrics", "triton", "wandb")


@pytest.mark.slow
@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__.rpartition(".")[2])
def test_every_check_that_the_cpu_can_run_passes(module):
    for name, case in module.cases(on_gpu=False).items():
        torch.manual_seed(0)
        try:
            measured = case.run(CPU)
        except NotRunError as reason:
            assert name.startswith(("kernel", "marked tests", "no wait", "matcher: no wait", "figure: compiled")), (
                reason
            )
        else:
            json.dumps(measured, allow_nan=False)


def test_the_checks_of_a_gpu_are_those_of_the_rehearsal():
    for module in MODULES:
        assert module.cases(on_gpu=True).keys() == module.cases(on_gpu=False).keys()


@pytest.mark.slow
def test_a_check_that_hangs_dies_or_raises_costs_itself_alone(tmp_path, capsys):
    path = tmp_path / "out" / "gpu_part_1.json"
    assert run_part(Plan("cpu", "", 1, 120.0), [["odd_checks", "no_such_checks"]], path) == 1
    rows = {row["check"]: row for row in json.loads(path.read_text())["checks"]}
    outcomes = {name: (row["outcome"], row.get("reason")) for name, row in rows.items()}
    assert outcomes == {
        "no_such_checks": ("not run", "no module no_such_checks"),
        "passes": ("passed", None),
        "is wrong": ("failed", "AssertionError: the figure is nan, more than 1"),
        "lacks a module": ("not run", "no module no_such_module"),
        "lacks a device": ("not run", "needs a CUDA device"),
        "hangs": ("failed", "took longer than 1 s"),
        "dies": ("failed", "its process died with exit code 3"),
        "raises": ("failed", "KeyError: 'nothing'"),
        "passes after all of them": ("passed", None),
    }
    assert rows["passes"]["figures"] == {"figure": 2.5}
    printed = capsys.readouterr().out
    assert "2 passed, 4 failed, 3 not run" in printed and printed.count("took longer than 1 s") == 2


def test_what_was_done_is_on_disk_when_the_time_is_over(tmp_path):
    path = tmp_path / "part.json"
    assert run_part(Plan("cpu", "passes", 1, 0.0), [["odd_checks"]], path) == 1, "nothing ran"
    rows = json.loads(path.read_text())["checks"]
    assert [row["reason"] for row in rows] == 2 * ["the time of this part is over"]


def test_the_updates_need_nothing_but_torch(tmp_path):
    program = (
        "import sys\n"
        f"sys.modules.update(dict.fromkeys({ABSENT!r}))\n"
        "from benchmarks.gpu import figures, kernels, marked_tests, matchers, scaling, updates\n"
        "import torch\n"
        "for module in (updates, scaling, matchers):\n"
        "    name, case = next(iter(module.cases(False).items()))\n"
        "    case.run(torch.device('cpu'))\n"
        "    print(name)\n"
    )
    run = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-2000:]
    assert len(run.stdout.splitlines()) == 3


def test_without_a_device_one_line_says_how_to_rehearse(tmp_path):
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    command = ["make", "gpu", "PART=1", f"PYTHON={sys.executable}", f"OUT={tmp_path}"]
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert run.returncode and "make gpu: PyTorch finds no CUDA device; DEVICE=cpu rehearses" in run.stderr
    assert "Traceback" not in run.stderr
