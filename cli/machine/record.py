"""What was tried on this machine, in a file from which the same command goes on. Standard library only."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from system.files import write_text

# What a trial is about.
MEMORY, SPEED, EMBEDDING, MATCHING = "memory", "speed", "embedding", "matching"
# How it ended: FULL, out of memory, or beyond the limit; SLOW, beyond the seconds; REFUSED, by the options or the data;
# FAILED, for another reason.
FITS, FULL, SLOW, REFUSED, FAILED = "fits", "out of memory", "too slow", "refused", "failed"
MAX_BYTES = 2**24  # of the file


@dataclass(frozen=True)
class Trial:
    """What one child process has found out.

    Attributes:
        kind: MEMORY or SPEED of training, EMBEDDING, MATCHING.
        flags: those that a fit changes, and their values.
        outcome: FITS, FULL, SLOW, REFUSED or FAILED.
        reason: why it does not fit, one line; "".
        seconds: that the process took.
        peak_bytes: the most that it held, of a GPU's memory what torch had reserved there; None if unknown.
        cap_bytes: that it might hold at most; None: as much as there is.
        images: of an optimizer step.
        step_seconds: of each step that was timed, waiting for data included.
        phases: by name, seconds and peak_bytes of one step's.
        rows: of EMBEDDING and MATCHING, for each batch its percentiles.
        plan: what the training holds by what it is of, one line; "".
        number: how many trials of this kind with these flags were before it.
    """

    kind: str
    flags: dict[str, Any]
    outcome: str
    reason: str = ""
    seconds: float = 0.0
    peak_bytes: int | None = None
    cap_bytes: float | None = None
    images: int = 0
    step_seconds: list[float] = field(default_factory=list)
    phases: dict[str, dict[str, float | None]] = field(default_factory=dict)
    rows: list[dict[str, float | None]] = field(default_factory=list)
    plan: str = ""
    number: int = 0

    @property
    def fits(self) -> bool:
        """Whether it ended well."""
        return self.outcome == FITS

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Return what `asdict` gave; raises TypeError, ValueError, KeyError or AttributeError if it did not."""
        return cls(
            kind=str(values["kind"]),
            flags=dict(values["flags"]),
            outcome=str(values["outcome"]),
            reason=str(values["reason"]),
            seconds=float(values["seconds"]),
            peak_bytes=None if values["peak_bytes"] is None else int(values["peak_bytes"]),
            cap_bytes=None if values["cap_bytes"] is None else float(values["cap_bytes"]),
            images=int(values["images"]),
            step_seconds=[float(number) for number in values["step_seconds"]],
            phases={str(name): _numbers(phase) for name, phase in values["phases"].items()},
            rows=[_numbers(row) for row in values["rows"]],
            plan=str(values["plan"]),
            number=int(values["number"]),
        )


def _numbers(values: Mapping[str, Any]) -> dict[str, float | None]:
    return {str(name): None if number is None else float(number) for name, number in values.items()}


class Record:
    """The trials of a fit and their file, which is written after each of them.

    Args:
        path: of the file; its folder exists.
        about: what the trials depend on, in primitives: a file about something else is refused.
    Attributes:
        result: what the fit came to, for the file; empty until then.
        limit_bytes: of memory, as it was when the fit began; None: not known yet, or not at all.
    Raises:
        ValueError: one line, if the file is damaged or about other flags or another machine.
    """

    def __init__(self, path: Path, about: Mapping[str, Any]) -> None:
        self._path = path
        self._about = json.loads(json.dumps(about))  # as the file will have it: lists, not tuples
        self.trials: list[Trial] = []
        self.result: dict[str, Any] = {}
        self.limit_bytes: float | None = None
        if path.exists():
            self._read()

    def _read(self) -> None:
        with self._path.open("rb") as stream:
            content = stream.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise ValueError(f"{self._path} is larger than {MAX_BYTES // 2**20} MiB: it is no file of fit")
        try:
            values = json.loads(content)
            about, limit = values["about"], values["limit_bytes"]
            self.trials = [Trial.from_dict(each) for each in values["trials"]]
            self.limit_bytes = None if limit is None else float(limit)
            other = sorted(name for name in self._about | about if self._about.get(name) != about.get(name))
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
            raise ValueError(
                f"{self._path} is damaged, or no file of fit; delete it, or give another --output"
            ) from error
        if other:
            raise ValueError(
                f"{self._path} holds trials of another command or machine ({', '.join(map(str, other[:5]))} differ);"
                " delete it, or give another --output"
            )

    def find(self, kind: str, flags: Mapping[str, Any], number: int = 0) -> Trial | None:
        """Return the trial of a kind with these flags, the first or a later one, if there was one."""
        return next((each for each in self.of(kind, flags) if each.number == number), None)

    def of(self, kind: str, flags: Mapping[str, Any]) -> list[Trial]:
        """Return all trials of a kind with these flags."""
        return [each for each in self.trials if each.kind == kind and each.flags == flags]

    def add(self, trial: Trial) -> None:
        """Keep a trial."""
        self.trials.append(trial)
        self.write()

    def write(self) -> None:
        """Write the file."""
        content = {
            "about": self._about,
            "limit_bytes": self.limit_bytes,
            "result": self.result,
            "trials": [asdict(each) for each in self.trials],
        }
        write_text(self._path, json.dumps(content, indent=1) + "\n")
