"""What status.json holds, and what it says of a run when it is read later: whether it runs, ended or died."""

from __future__ import annotations

import json
import math
import os
import re
import time
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

from system.files import is_regular
from system.processes import Process, is_alive

JSON, PAGE = "status.json", "status.html"
SCHEMA = 1
FINISHED, STOPPED, FAILED = "finished", "stopped", "failed"
ENDS = (FINISHED, STOPPED, FAILED)
RUNNING, DIED, SILENT, UNKNOWN = "running", "died", "silent", "unknown"
MAX_BYTES = 2**20  # of a file that says how a run is
LEAST_SILENCE = 300.0  # seconds
_HEARTBEAT_ENDS = {"over": FINISHED, "failed or stopped": "stopped or failed"}
_HOLDER = re.compile(r"process (\d{1,9}) on (\S+) since ")  # what lock_folder of engine/runs.py writes
_SIGNS = ("heartbeat.json", "metrics.csv", "run.log", "config.json")
_RUN_FILES = (JSON, "metrics.csv", "config.json")


class Incidents(TypedDict):
    """Steps that were refused or had an unusual loss: how many, and (step, cause) of the last ones."""

    num: int
    last: list[tuple[int, str]]


class Best(TypedDict):
    """The largest value of the metric that chooses best.ckpt."""

    metric: str
    value: float
    step: float


class Figure(TypedDict):
    """A metric: its latest value and the largest finite one, each with its step."""

    step: float
    value: float | str  # "nan", "inf" or "-inf" where it is not finite
    largest: float | None
    largest_step: float | None


class Status(TypedDict):
    """What status.json holds; None stands for what is not known, or not yet."""

    schema: int
    run: str
    state: str  # starting, training, validating, testing, finishing; at the end one of ENDS
    words: str | None  # the last words of a run that ended
    exit_code: int | None
    written: str  # local time with its offset
    written_at: float  # seconds since 1970
    every_seconds: float
    process: Process
    running_seconds: float
    occupation: str | None  # what training waits for
    stalled: str | None
    step: int
    total_steps: int | None
    epoch: int
    epochs: int
    seconds_to_go: float | None  # of training
    images_per_second: float
    waiting_share: float | None  # of the time of training that was spent waiting for batches
    pairs: int | None
    total_pairs: int | None
    memory_bytes: int | None
    gpu_memory_bytes: int | None
    skipped_steps: int
    incidents: Incidents
    best: Best | None
    figures: dict[str, Figure]  # by metric
    warnings: list[str]  # the last ones of the log
    command: str | None
    versions: dict[str, str]


def silence_of_death(every_seconds: float) -> float:
    """Return after how many seconds a page that is written every so often is taken for that of a run that died."""
    return max(LEAST_SILENCE, 10 * every_seconds)


class RunState(NamedTuple):
    """How a run is, as far as its folder tells.

    `verdict` is RUNNING, SILENT (its process lives, its files are old), DIED, UNKNOWN or how it ended; `doing` is the
    state that it wrote last, `age` the seconds since.
    """

    folder: Path
    verdict: str
    doing: str = ""
    words: str = ""
    age: float | None = None
    step: float | None = None
    total_steps: float | None = None
    epoch: float | None = None
    seconds_to_go: float | None = None
    images_per_second: float | None = None
    monitor: str = ""


def is_run(folder: Path) -> bool:
    """Return whether a folder is that of a run."""
    return any(is_regular(folder / name) for name in _RUN_FILES)


def read_state(folder: Path, now: float | None = None) -> RunState:
    """Return how a run is, from status.json, or from what older runs left.

    Args:
        folder: the run folder.
        now: seconds since 1970; None: the clock's.
    """
    now = time.time() if now is None else now
    found = _read_object(folder / JSON)
    process = _process(found.get("process")) if found.get("schema") == SCHEMA else None
    if process is None:
        return _state_of_old(folder, now)
    written, every = _number(found, "written_at"), _number(found, "every_seconds")
    age = None if written is None else max(0.0, now - written)
    state = _told(folder, found)._replace(age=age, words=_text(found, "words"))
    if state.doing in ENDS:
        return state._replace(verdict=state.doing)
    return state._replace(verdict=_verdict(is_alive(process), age, silence_of_death(every or 0.0)))


def _state_of_old(folder: Path, now: float) -> RunState:
    beat = _read_object(folder / "heartbeat.json")
    times = [(folder / name).lstat().st_mtime for name in _SIGNS if is_regular(folder / name)]
    age = max(0.0, now - max(times)) if times else None
    state = _told(folder, beat)._replace(age=age)
    if state.doing in _HEARTBEAT_ENDS:
        return state._replace(verdict=_HEARTBEAT_ENDS[state.doing], doing="")
    holder = _HOLDER.match(_read(folder / "run.lock")[:200])
    if holder is None:
        return state._replace(verdict=FINISHED if is_regular(folder / "report" / "results.json") else UNKNOWN)
    process: Process = {"pid": int(holder[1]), "host": holder[2], "began": None}
    alive = is_alive(process)
    # Without the moment in which it began its number may be another's by now.
    return state._replace(verdict=_verdict(alive, age, LEAST_SILENCE) if alive is not False else DIED)


def _verdict(alive: bool | None, age: float | None, limit: float) -> str:
    if alive is False:
        return DIED
    if age is None or age > limit:
        return SILENT if alive else DIED
    return RUNNING


def _told(folder: Path, found: Mapping[str, Any]) -> RunState:
    """Return what a status or a heartbeat tells, which may hold anything."""
    best = found.get("best")
    chosen = _text(best, "metric") if isinstance(best, dict) else ""
    return RunState(
        folder,
        UNKNOWN,
        _text(found, "state"),
        step=_number(found, "step"),
        total_steps=_number(found, "total_steps"),
        epoch=_number(found, "epoch"),
        seconds_to_go=_number(found, "seconds_to_go"),
        images_per_second=_number(found, "images_per_second"),
        monitor=chosen or _text(_read_object(folder / "config.json"), "monitor"),
    )


def _read_object(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(_read(path))
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _read(path: Path) -> str:
    """Return the text of a small file; none of one that cannot be read."""
    try:
        if is_regular(path) and path.stat().st_size <= MAX_BYTES:
            return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        pass
    return ""


def _process(found: object) -> Process | None:
    match found:
        case {"pid": int(pid), "host": str(host), "began": int() | None as began}:
            return {"pid": pid, "host": host, "began": began}
    return None


def _number(found: Mapping[str, Any], name: str) -> float | None:
    value = found.get(name)
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    return float(value) if abs(value) < 1e12 and math.isfinite(value) else None


def _text(found: Mapping[str, Any], name: str) -> str:
    value = found.get(name)
    return value if isinstance(value, str) else ""


def clock_time(seconds: float) -> str:
    """Return a moment in words: local time with its offset."""
    return datetime.fromtimestamp(seconds).astimezone().isoformat(sep=" ", timespec="seconds")


def environment_of(folder: Path) -> tuple[str | None, dict[str, str]]:
    """Return the last command and the versions that the record of a run names."""
    lines = _read(folder / "command.txt").splitlines()
    try:
        last = json.loads(_read(folder / "environment.json"))[-1]
        packages = last["packages"]
        versions = {"python": last["python"], **packages, "revision": last["git_revision"]}
    except (ValueError, RecursionError, LookupError, TypeError):
        versions = {}
    return lines[-1] if lines else None, {name: str(value) for name, value in versions.items() if value is not None}


class IncidentTail:
    """What stands in incidents.jsonl, read on from where it was read to."""

    KEPT = 10

    def __init__(self, path: Path) -> None:
        self._path, self._offset = path, 0
        self.incidents: Incidents = {"num": 0, "last": []}

    def read_on(self) -> None:
        """Take in the whole lines that were added since."""
        if not is_regular(self._path):
            return
        with self._path.open("rb") as stream:
            stream.seek(self._offset)
            text = stream.read(MAX_BYTES)
        whole = text[: text.rfind(b"\n") + 1]
        self._offset += len(whole) or (len(text) if len(text) == MAX_BYTES else 0)  # a line beyond any of ours
        for line in whole.splitlines():
            self._take(line)

    def _take(self, line: bytes) -> None:
        try:
            found = json.loads(line)
            told = int(found["step"]), str(found["cause"])
        except (ValueError, RecursionError, LookupError, TypeError):
            return
        self.incidents["num"] += 1
        self.incidents["last"] = [*self.incidents["last"], told][-self.KEPT :]


def newest_runs(folders: list[Path]) -> list[Path]:
    """Return the runs that folders are or hold, each once, the one that was written to last first.

    Raises:
        ValueError: if a folder is not there, or neither is nor holds a run.
    """
    found: dict[Path, float] = {}
    for folder in folders:
        if not folder.is_dir():
            raise ValueError(f"{folder}: no such folder; give a run folder, or one that holds some, as experiments")
        runs = [folder] if is_run(folder) else [path for path in folder.iterdir() if path.is_dir() and is_run(path)]
        if not runs:
            raise ValueError(f"{folder}: no run in it: none of its folders has {', '.join(_RUN_FILES)}")
        found |= {run: _last_sign(run) for run in runs}
    return sorted(found, key=lambda run: (-found[run], os.fspath(run)))


def _last_sign(run: Path) -> float:
    return max((run / name).lstat().st_mtime for name in (*_SIGNS, JSON) if is_regular(run / name))
