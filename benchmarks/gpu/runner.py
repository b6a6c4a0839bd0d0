"""Runs checks in processes of their own: one that hangs, crashes or poisons its CUDA context costs itself alone."""

from __future__ import annotations

import gc
import importlib
import json
import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib import metadata
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from queue import Empty, SimpleQueue
from tempfile import TemporaryDirectory
from threading import Lock, Thread
from typing import Any, NamedTuple

import torch

from benchmarks.gpu.case import Cases, NotRunError
from benchmarks.gpu.table import FAILED, MOST, NOT_RUN, OUTCOMES, PASSED, short
from benchmarks.harness.measure import machine
from system import ROOT
from system.cores import usable_cores

START_SECONDS = 60.0  # for a process to import torch; the first import from a cold disk is slow
END_SECONDS = 10.0  # for a killed process to be gone; one that its driver holds stays
CACHES = ("TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR", "MASKWISE_CACHE")

Row = dict[str, Any]


class Plan(NamedTuple):
    """How the checks are run."""

    device: str  # "cuda" or "cpu"
    only: str  # a word in the name of the checks to run; empty: all
    jobs: int  # processes at a time
    seconds: float  # for all of them


class Task(NamedTuple):
    """Where a check is found, and for how long it may run."""

    module: str
    name: str
    seconds: float


class Results:
    """The rows so far; the JSON file is replaced with each."""

    def __init__(self, path: Path, facts: Row) -> None:
        self._path = path
        self._facts = facts
        self._lock = Lock()
        self.rows: list[Row] = []
        path.parent.mkdir(parents=True, exist_ok=True)
        self._write()

    def add(self, row: Row) -> None:
        """Take a row, write the file and print a line."""
        with self._lock:
            self.rows.append(row)
            print(_line(row), flush=True)
            try:
                self._write()
            except OSError as error:  # the next row writes them all
                print(f"{self._path}: {error}", file=sys.stderr, flush=True)

    def _write(self) -> None:
        temporary = self._path.with_suffix(".json.tmp")
        text = json.dumps({"facts": self._facts, "checks": self.rows}, indent=1)
        with temporary.open("w") as stream:
            stream.write(text + "\n")
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(self._path)


def run_part(plan: Plan, beside: Sequence[str], alone: Sequence[str], path: Path) -> int:
    """Run the checks of some modules, those of the last ones one at a time; return the exit code.

    Args:
        beside, alone: names of modules, each with a function `cases(on_gpu: bool) -> Cases`.
        path: of the JSON file.
    """
    start = time.monotonic()
    deadline = start + plan.seconds
    results = Results(path, _facts(plan.device))
    with _new_caches(), _ended_children():
        for modules, jobs in ((beside, plan.jobs), (alone, 1)):
            _run_stage(plan, _tasks(plan, modules, results), results, deadline, jobs)
    counts = {outcome: sum(row["outcome"] == outcome for row in results.rows) for outcome in OUTCOMES}
    summary = ", ".join(f"{count} {outcome}" for outcome, count in counts.items())
    print(f"\n{summary} in {time.monotonic() - start:.0f} s; {path}")
    return 0 if counts[PASSED] and not counts[FAILED] else 1


@contextmanager
def _new_caches() -> Iterator[None]:
    """Let processes compile and draw anew: an old cache would hide what no longer compiles."""
    before = {name: os.environ.get(name) for name in CACHES}
    with TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        os.environ.update(dict.fromkeys(CACHES, folder))
        try:
            yield
        finally:
            for name, value in before.items():
                os.environ.pop(name)
                os.environ.update({} if value is None else {name: value})


@contextmanager
def _ended_children() -> Iterator[None]:
    """Leave no process behind when the part is interrupted."""
    try:
        yield
    finally:
        for process in multiprocessing.active_children():
            _kill(process)


def _kill(process: BaseProcess) -> None:
    """Kill a process of a group of its own with what it has started."""
    if process.pid and hasattr(os, "killpg"):
        with suppress(OSError):
            os.killpg(process.pid, signal.SIGKILL)
    process.kill()


def _facts(device: str) -> Row:
    facts: Row = {**machine(), "device": device, "python": sys.version.split()[0], "cuda": torch.version.cuda}
    facts |= {"triton": _version("triton"), "revision": _said_by("git", "rev-parse", "--short", "HEAD")}
    if device == "cuda":
        facts["driver"] = _said_by("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
        properties = torch.cuda.get_device_properties(0)
        facts |= {"gpu": properties.name, "capability": f"{properties.major}.{properties.minor}"}
        facts |= {"gpu_mib": properties.total_memory // 2**20, "multiprocessors": properties.multi_processor_count}
    return facts


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _said_by(*command: str) -> str | None:
    """Return the first line that a program prints; None where it is missing or fails."""
    try:
        run = subprocess.run(command, cwd=ROOT, capture_output=True, encoding="utf-8", errors="replace", timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return run.stdout.partition("\n")[0].strip() or None if run.returncode == 0 else None


def _tasks(plan: Plan, modules: Sequence[str], results: Results) -> list[Task]:
    tasks = []
    for module in modules:
        try:
            cases: Cases = importlib.import_module(module).cases(plan.device == "cuda")
        except ImportError as error:
            results.add(_row(module.rpartition(".")[2], NOT_RUN, 0.0, reason=_missing(error)))
            continue
        except Exception as error:  # noqa: BLE001  (another module's checks run whatever this one raised)
            results.add(_failed(module.rpartition(".")[2], 0.0, error))
            continue
        tasks += [Task(module, name, case.seconds) for name, case in cases.items() if plan.only in name]
    return tasks


def _run_stage(plan: Plan, tasks: Sequence[Task], results: Results, deadline: float, jobs: int) -> None:
    queue: SimpleQueue[Task] = SimpleQueue()
    for task in tasks:
        queue.put(task)
    # Daemons: an interrupted part ends at once.
    how = (plan.device, max(1, usable_cores() // jobs))
    threads = [Thread(target=_work_off, args=(how, queue, results, deadline), daemon=True) for _ in range(jobs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _work_off(how: tuple[str, int], queue: SimpleQueue[Task], results: Results, deadline: float) -> None:
    """Give the tasks of a queue to one process, and to another after one that did not come back whole.

    Args:
        how: device and threads of the process.
    """
    child: _Child | None = None
    while True:
        try:
            task = queue.get_nowait()
        except Empty:
            break
        left = deadline - time.monotonic()
        if left <= 0:
            results.add(_row(task.name, NOT_RUN, 0.0, reason="the time of this part is over"))
            continue
        try:
            child = child or _Child(*how)
        except OSError as error:
            results.add(_row(task.name, FAILED, 0.0, reason=f"no process could be started: {error}"))
            continue
        row, is_sound = child.run(task, left)
        results.add(row)
        if not is_sound:
            child.end()
            child = None
    if child is not None:
        child.end()


class _Child:
    """A process that runs one check after the other."""

    def __init__(self, device: str, threads: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process: BaseProcess = context.Process(target=_serve, args=(theirs, device, threads), daemon=True)
        self._process.start()
        theirs.close()
        self._is_new = True

    def run(self, task: Task, left: float) -> tuple[Row, bool]:
        """Return the row of a check, and whether the process may run another.

        The check fails if it takes longer than its time, or the process dies.
        """
        seconds = min(left, task.seconds + (START_SECONDS if self._is_new else 0.0))
        self._is_new = False
        start = time.monotonic()
        try:
            self._pipe.send(task)
            if self._pipe.poll(seconds):
                answer: tuple[Row, bool] = self._pipe.recv()
                return answer
            reason = f"took longer than {seconds:.0f} s"
        except (EOFError, OSError):
            self._process.join(5)
            reason = f"its process died with exit code {self._process.exitcode}"
        return _row(task.name, FAILED, time.monotonic() - start, reason=reason), False

    def end(self) -> None:
        """End the process, whatever it is doing."""
        self._pipe.close()
        self._process.join(0.5)
        _kill(self._process)
        self._process.join(END_SECONDS)


def _serve(pipe: Connection, device_name: str, threads: int) -> None:
    """Run the checks that come through the pipe until it is closed."""
    torch.set_num_threads(threads)  # the CPU gives the numbers to compare with, for several checks at a time
    device = torch.device(device_name, 0) if device_name == "cuda" else torch.device(device_name)
    if hasattr(os, "setsid"):
        os.setsid()
    logging.disable(logging.WARNING)  # steps are spoilt on purpose
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    while True:
        try:
            task: Task = pipe.recv()
        except (EOFError, OSError):
            return
        pipe.send(_run_case(task, device))


def _run_case(task: Task, device: torch.device) -> tuple[Row, bool]:
    """Return the row of a check, and whether this process can be trusted with another: not after an error of CUDA."""
    start = time.monotonic()
    try:
        torch.manual_seed(0)
        case = importlib.import_module(task.module).cases(device.type == "cuda")[task.name]
        figures = case.run(device)
        if device.type == "cuda":
            torch.cuda.synchronize(device)  # what a kernel did wrong is this check's fault, not the next one's
        json.dumps(figures, allow_nan=False)  # what no file can hold, and a figure that is no number, is a failure
        return _row(task.name, PASSED, time.monotonic() - start, figures=figures), True
    except (NotRunError, ImportError) as error:
        reason = _missing(error) if isinstance(error, ImportError) else str(error)
        return _row(task.name, NOT_RUN, time.monotonic() - start, reason=reason), True
    except Exception as error:  # noqa: BLE001  (the next check runs whatever this one raised)
        return _failed(task.name, time.monotonic() - start, error), isinstance(error, AssertionError)
    finally:
        if device.type == "cuda":
            _free_memory()


def _free_memory() -> None:
    try:
        torch.cuda.set_sync_debug_mode("default")
        gc.collect()  # modules refer to themselves, and hold their memory until then
        torch.cuda.empty_cache()
    except RuntimeError:
        pass  # the context is broken: the check has failed, and the process ends


def _failed(check: str, seconds: float, error: Exception) -> Row:
    """Return the row of a check that raised an error, which is being handled."""
    reason = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
    return _row(check, FAILED, seconds, reason=reason, traceback=traceback.format_exc())


def _missing(error: ImportError) -> str:
    if isinstance(error, ModuleNotFoundError) and error.name:
        return f"no module {error.name}"
    return (str(error).splitlines() or ["an import failed"])[0]


def _row(check: str, outcome: str, seconds: float, **more: Any) -> Row:
    return {"check": check, "outcome": outcome, "seconds": round(seconds, 3), **more}


def _line(row: Row) -> str:
    shown = {name: value for name, value in row.get("figures", {}).items() if not isinstance(value, list)}
    figures = "  ".join(f"{name} {short(value)}" for name, value in shown.items())
    return f"{row['outcome']:8s} {row['seconds']:6.1f} s  {row['check']:54s} {row.get('reason', figures)[:MOST]}"
