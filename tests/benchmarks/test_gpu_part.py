"""`make gpu` rehearsed on the CPU: every check that can run there passes, and what goes wrong costs itself alone."""

import importlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from programs import ROOT

from benchmarks.gpu import __main__ as program
from benchmarks.gpu import table
from benchmarks.gpu.case import NotRunError
from benchmarks.gpu.checks import matchers, programs
from benchmarks.gpu.runner import Plan, run_part
from config import get_args, get_detection_args, get_pretraining_args

CPU = torch.device("cpu")
OTHER = torch.device("cpu", 0)  # to torch another device: what is sent there is a copy, as on a GPU
MODULES = [name for part in program.PARTS.values() for names in part.stages for name in names]
# What a machine with a GPU may lack; PyTorch brings numpy, or goes without.
ABSENT = ("cv2", "hypothesis", "matplotlib", "numcodecs", "pytest", "pytorch_lightning", "rich", "safetensors")
ABSENT = (*ABSENT, "sklearn", "torchmetrics", "triton", "wandb")
NEED_A_DEVICE = (
    *("kernel", "marked tests", "no wait", "matcher: no wait", "pinned batches: no wait", "compiled", "program"),
    *("figure: compiled", "figure: step, ir_50, bf16, compiled", "ahead"),
)


def cases(module, on_gpu):
    return importlib.import_module(module).cases(on_gpu)


def is_over(process):
    """Return whether a process has ended, within seconds; nobody may have collected it."""
    stat = Path("/proc", process, "stat")
    for _ in range(50):
        try:
            if stat.read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.1)
    return False


@pytest.mark.slow
@pytest.mark.parametrize("module", MODULES)
def test_every_check_that_the_cpu_can_run_passes(module, tmp_path, monkeypatch):
    monkeypatch.setenv("MASKWISE_CACHE", str(tmp_path))
    monkeypatch.setattr(programs, "SECONDS", 600.0)  # of a program on a busy CPU
    for name, case in cases(module, on_gpu=False).items():
        torch.manual_seed(0)
        try:
            measured = case.run(OTHER)
        except NotRunError as reason:
            assert name.startswith(NEED_A_DEVICE), reason
        else:
            json.dumps(measured, allow_nan=False)


def test_the_other_device_has_memory_of_its_own():
    there, leaf = torch.ones(2), torch.ones(2, requires_grad=True)
    assert there.to(OTHER) is not there and not leaf.to(OTHER).is_leaf


def test_the_checks_of_a_gpu_are_those_of_the_rehearsal():
    names = [name for module in MODULES for name in cases(module, on_gpu=True)]
    assert names == [name for module in MODULES for name in cases(module, on_gpu=False)]
    assert len(names) == len(set(names)), "two checks have one name"


def test_the_parts_hold_all_checks():
    folder = ROOT / "benchmarks/gpu"
    found = {path for path in folder.rglob("*.py") if "def cases(" in path.read_text()}
    assert {folder / f"{name.removeprefix('benchmarks.gpu.').replace('.', '/')}.py" for name in MODULES} == found


@pytest.mark.slow
def test_a_check_that_hangs_dies_or_raises_costs_itself_alone(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("GRANDCHILD", str(tmp_path / "grandchild"))
    path = tmp_path / "out" / "gpu_part_1.json"
    assert run_part(Plan("cpu", "", 1, 300.0), ["odd_checks", "no_such_checks", "broken_checks"], [], path) == 1
    rows = {row["check"]: row for row in json.loads(path.read_text())["checks"]}
    # From Python 3.12 on its message ends with the number.
    outcomes = {name: (r["outcome"], r.get("reason", "").removesuffix(": nan") or None) for name, r in rows.items()}
    assert outcomes == {
        "no_such_checks": ("not run", "no module no_such_checks"),
        "broken_checks": ("failed", "ZeroDivisionError: division by zero"),
        "passes": ("passed", None),
        "is wrong": ("failed", "AssertionError: the figure is nan, more than 1"),
        "lacks a module": ("not run", "no module no_such_module"),
        "lacks a device": ("not run", "needs a CUDA device"),
        "hangs": ("failed", "took longer than 1 s"),
        "comes between": ("passed", None),
        "starts what hangs": ("failed", "took longer than 1 s"),
        "dies": ("failed", "its process died with exit code 3"),
        "raises": ("failed", "KeyError: 'nothing'"),
        "measures no number": ("failed", "ValueError: Out of range float values are not JSON compliant"),
        "passes after all of them": ("passed", None),
    }
    assert rows["passes"]["figures"] == {"figure": 2.5}
    printed = capsys.readouterr().out
    assert "3 passed, 7 failed, 3 not run" in printed
    lines = table.of_all(path.parent).splitlines()
    assert lines[-1] == "3 passed, 7 failed, 3 not run" and "| 1 | passes | passed |" in "\n".join(lines)
    assert [line.split("|")[3].strip() for line in lines[2:9]] == 7 * ["failed"], "what failed comes first"
    assert is_over((tmp_path / "grandchild").read_text()), "what a check started outlived it"


@pytest.mark.parametrize("words", [*(each.words for each in programs.TRAININGS.values()), programs.DETECTOR])
def test_the_flags_of_the_programs_exist(words):
    rest = [*programs.BASE, "--gpus", "1"]
    if words[0] == "pretrain":
        get_pretraining_args([*words[1:], *rest])
    elif words[0] == "detect":
        get_detection_args([*words[2:], *rest])
    else:
        get_args([*words, *rest])


def test_what_was_done_is_on_disk_when_the_time_is_over(tmp_path):
    path = tmp_path / "part.json"
    assert run_part(Plan("cpu", "passes", 1, 0.0), [], ["odd_checks"], path) == 1, "nothing ran"
    rows = json.loads(path.read_text())["checks"]
    assert [row["reason"] for row in rows] == 2 * ["the time of this part is over"]


def test_the_updates_need_nothing_but_torch(tmp_path):
    program = (
        "import sys\n"
        f"sys.modules.update(dict.fromkeys({ABSENT!r}))\n"
        "from benchmarks.gpu.checks import kernels, marked_tests, matchers, ranks, scaling, updates\n"
        "from benchmarks.gpu.figures import matches\n"
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


def test_the_table_says_what_it_cannot_read(tmp_path):
    assert table.of_all(tmp_path) == f"{tmp_path}: no part has been run"
    (tmp_path / "gpu_part_1.json").write_text("{")
    row = {"check": "a | b", "outcome": "passed", "seconds": 1.25, "figures": {"ms": 2.3456, "runs": [1, 2]}}
    (tmp_path / "gpu_part_2.json").write_text(json.dumps({"facts": {"gpu": "a card"}, "checks": [row]}))
    lines = table.of_all(tmp_path).splitlines()
    assert lines[2] == "| 2 | a / b | passed | 1.2 | ms 2.35 |"
    assert "gpu_part_1.json: cannot be read (JSONDecodeError" in lines[4] and lines[5].endswith("gpu a card")
    command = ["make", "gpu", "PART=table", f"PYTHON={sys.executable}", f"OUT={tmp_path}"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert lines[2] in run.stdout.splitlines()


def test_another_device_gives_gradients_to_what_the_cpu_was_given():
    inputs = [torch.randn(3, 8, 3, 3), torch.randn(2, 8, 3, 3), torch.rand(3, 1, 3, 3), torch.rand(2, 1, 3, 3)]
    matcher = matchers.twins(CPU, num_features=8, height=3, width=3)[0].eval()
    first, second = (
        matchers.run_matcher(matcher, inputs, device, matchers.CALLS["all pairs"], False) for device in (CPU, OTHER)
    )
    assert first.keys() == second.keys() and torch.equal(first["grad probe"], second["grad probe"])
    assert not any(value.requires_grad for value in inputs)
