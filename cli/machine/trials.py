"""A trial in a child process, which may run out of memory or time without harm to anybody. Standard library only."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import IO, Any

from cli.machine.record import FAILED, FULL, SLOW, Trial
from system import ROOT
from system.memory import session_memory
from system.processes import session_members

PERIOD = 0.1  # seconds from look to look at the memory of a child
SECONDS_TO_END = 10.0  # for what was killed
_START = "from cli.machine.child import main; main()"


def run_trial(request: Mapping[str, Any], seconds: float, cap: float | None) -> Trial:
    """Return what a child finds out; it and all that it started have ended then, however this call ends.

    Args:
        request: as of `cli.machine.child`, in primitives; its kind and flags become the trial's.
        seconds: after which it is killed, from when its data are ready.
        cap: bytes of memory that it and its workers may hold, after which it is killed; None: they are not limited.
    """
    begin = time.monotonic()
    with tempfile.TemporaryFile() as words:
        child = _start(words)
        found: dict[str, Any] = {"rows": []}
        reader = threading.Thread(target=_collect, args=(child.stdout, found), daemon=True)
        try:
            reader.start()
            _ask(child, request)
            peak, broken = _watch(child, found, seconds, cap)
        finally:
            _end(child)
            reader.join(SECONDS_TO_END)
            if child.stdout is not None and not reader.is_alive():
                child.stdout.close()
        found.pop("began", None)
        if not broken and "outcome" not in found:
            broken = FULL if child.returncode == -getattr(signal, "SIGKILL", 9) else FAILED
        # Of a GPU it alone knows. Of the host it misses no moment, and knows nothing of its workers.
        peak = max(found.pop("peak_bytes", None) or 0, peak if cap is not None else 0)
        if cap is not None and peak > cap:
            broken = FULL
        if broken:
            found |= {"outcome": broken, "reason": _reason(broken, seconds, cap, words)}
    known: dict[str, Any] = {"kind": request["kind"], "flags": dict(request["flags"]), "cap_bytes": cap}
    known |= {"peak_bytes": peak or None, "seconds": round(time.monotonic() - begin, 3)}
    return Trial(**known | found)


def _start(words: IO[bytes]) -> subprocess.Popen[bytes]:
    paths = filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])
    return subprocess.Popen(
        # -P: no module of the folder that the user is in stands before ours.
        [sys.executable, "-P", "-c", _START],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=words,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
        start_new_session=True,  # its workers can be seen and killed, and Ctrl-C is for us
    )


def _ask(child: subprocess.Popen[bytes], request: Mapping[str, Any]) -> None:
    assert child.stdin is not None
    with suppress(BrokenPipeError):  # it died at once, and says why
        child.stdin.write(json.dumps(request).encode())
        child.stdin.close()


def _collect(answer: IO[bytes], found: dict[str, Any]) -> None:
    """Take in what a child answers: rows one by one, and at the end all the rest."""
    for line in answer:
        with suppress(ValueError):  # a line that was not finished
            values = json.loads(line)
            if "row" in values:
                found["rows"].append(values["row"])
            else:
                found |= values


def _watch(
    child: subprocess.Popen[bytes], found: Mapping[str, Any], seconds: float, cap: float | None
) -> tuple[int, str]:
    """Return the most bytes that a child and its workers held, and FULL or SLOW where it is to be killed, else ""."""
    peak, began = 0, None
    while child.poll() is None:
        with suppress(subprocess.TimeoutExpired):
            child.wait(PERIOD)
        peak = max(peak, session_memory(child.pid) or 0)
        if cap is not None and peak > cap:
            return peak, FULL
        if began is None and "began" in found:
            began = time.monotonic()
        if began is not None and time.monotonic() - began > seconds:
            return peak, SLOW
    return peak, ""


def _end(child: subprocess.Popen[bytes]) -> None:
    """Kill a child and all that is left of its session, whatever groups they are in."""
    if hasattr(os, "killpg") and child.poll() is None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, signal.SIGKILL)
    child.kill()  # nothing where it has ended
    child.wait()
    begin = time.monotonic()
    while (members := session_members(child.pid)) and time.monotonic() - begin < SECONDS_TO_END:
        for member in members:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(member, signal.SIGKILL)
        time.sleep(PERIOD / 10)  # what dies gives its memory back before the next trial


def _reason(broken: str, seconds: float, cap: float | None, words: IO[bytes]) -> str:
    if broken == SLOW:
        return f"more than {seconds:g} s (--trial_seconds)"
    if broken == FULL:
        return "killed by the system" if cap is None else f"more than {cap / 2**20:,.0f} MiB, or killed by the system"
    words.seek(max(0, words.seek(0, os.SEEK_END) - 10_000))
    lines = words.read().decode("utf-8", "replace").splitlines()
    return next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")[:500]
