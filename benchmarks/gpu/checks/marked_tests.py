"""The tests that are marked `gpu`, where pytest and what they import are installed."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import torch

from benchmarks.gpu.case import OF_RUNS, Case, Cases, Figures, NotRunError, need_cuda, need_modules
from system import ROOT

SECONDS = 150.0


def find_files() -> list[Path]:
    """Return the test files with a marked test."""
    return [path for path in sorted((ROOT / "tests").rglob("test_*.py")) if "@pytest.mark.gpu" in path.read_text()]


def run_file(path: Path, device: torch.device) -> Figures:
    """Run the marked tests of a file; fail with the names of those that fail."""
    need_cuda(device)
    need_modules("pytest", *(() if "qaconv" in path.parts else ("hypothesis", *OF_RUNS)))
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-m", "gpu", "-rf", "--tb=short", str(path)]
    if find_spec("hypothesis") is None:
        command.insert(3, "--noconftest")
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=SECONDS - 5)
    if run.returncode:
        failed = re.findall(r"^FAILED (\S+)", run.stdout, re.MULTILINE)
        raise AssertionError(", ".join(failed) or (run.stdout + run.stderr).strip()[-300:])
    counts = {outcome: int(number) for number, outcome in re.findall(r"(\d+) (passed|skipped)", run.stdout)}
    if not counts.get("passed"):
        raise NotRunError(f"pytest ran nothing: {run.stdout.strip().splitlines()[-1:]}")
    return counts


def cases(on_gpu: bool) -> Cases:
    """Return a check for each file."""

    def of(path: Path) -> Case:
        return Case(lambda device: run_file(path, device), SECONDS)

    return {f"marked tests: {path.relative_to(ROOT).as_posix()}": of(path) for path in find_files()}
