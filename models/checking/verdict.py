"""What a check answers."""

from __future__ import annotations

from typing import NamedTuple

PASSED, FAILED, SKIPPED = "passed", "failed", "skipped"


class Verdict(NamedTuple):
    """Answer of one check: PASSED, FAILED or SKIPPED, and one line: figures, what is wrong, or why not."""

    status: str
    line: str


class Result(NamedTuple):
    """Answer of the check of a name, and the seconds it took."""

    check: str
    status: str
    line: str
    seconds: float


def passed(line: str) -> Verdict:
    """Return that all is well, with the figures that say so."""
    return Verdict(PASSED, line)


def failed(line: str) -> Verdict:
    """Return what is wrong."""
    return Verdict(FAILED, line)


def skipped(reason: str) -> Verdict:
    """Return why there is nothing to say."""
    return Verdict(SKIPPED, reason)
