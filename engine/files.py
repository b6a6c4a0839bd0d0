"""Files that cannot be written or read: training goes on, says so once, and the exit code tells what is missing."""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from system import ROOT

logger = logging.getLogger(__name__)

INCOMPLETE_CODE = 74  # EX_IOERR of sysexits.h


class WriteFailures:
    """Which files of a run could not be written, until they can be written again.

    A full disk costs what could not be written, not the run: what was there stays, and everything is tried again the
    next time it is due.
    """

    def __init__(self) -> None:
        self._missing: dict[str, str] = {}

    @property
    def missing(self) -> dict[str, str]:
        """The files that could not be written and have not been since, and why."""
        return dict(self._missing)

    def failed(self, name: str, error: Exception) -> None:
        """Note that a file could not be written, and say so if it could the last time."""
        if name not in self._missing:
            self._missing[name] = _reason(error)
            logger.error("%s could not be written (%s); the run goes on without it", name, self._missing[name])

    def succeeded(self, name: str) -> None:
        """Note that a file was written."""
        if self._missing.pop(name, None) is not None:
            logger.warning("%s can be written again", name)

    def exit_code(self) -> int:
        """Name the files that are missing at the end, and return the exit code that says so; 0 if there are none."""
        for name, reason in self._missing.items():
            logger.error("%s is missing or old: %s", name, reason)
        return INCOMPLETE_CODE if self._missing else 0


@contextmanager
def outlived(failures: WriteFailures | None, name: str, errors: type[Exception] = OSError) -> Iterator[None]:
    """Go on after the block if it raises OSError, and tell `failures`; where there is nobody to tell, it is raised.

    Args:
        failures: of the run.
        name: of the file that the block writes, as the user knows it.
        errors: what is outlived.
    """
    try:
        yield
    except errors as error:
        if failures is None:
            raise
        failures.failed(name, error)
    else:
        if failures is not None:
            failures.succeeded(name)


def side_file(failures: WriteFailures | None, name: str) -> AbstractContextManager[None]:
    """Go on after the block whatever it raises, as `outlived` does: the run is worth more than a picture or a list.

    Not for checkpoints, whose defects must not stay unseen until they are needed.
    """
    return outlived(failures, name, Exception)


def _reason(error: Exception) -> str:
    """Return why a file could not be written; of what no disk raises, also the kind and the place in our code."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if _is_ours(Path(frame.filename))] or frames
    lines = str(error).strip().splitlines()
    text = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
    return f"{text}, in {Path(ours[-1].filename).name}:{ours[-1].lineno}" if ours else text


def _is_ours(file: Path) -> bool:
    return file.is_relative_to(ROOT) and "site-packages" not in file.parts


class RunLogHandler(logging.FileHandler):
    """The log of a run folder, which may stay behind when the disk is full."""

    def __init__(self, path: Path, failures: WriteFailures) -> None:
        super().__init__(path, encoding="utf-8", errors="backslashreplace")
        self._failures = failures
        self._name = path.name
        self._error: OSError | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line, or keep it until there is room again."""
        self._error = None
        super().emit(record)
        error = self._error
        if error is None:
            self._failures.succeeded(self._name)
        else:
            self._failures.failed(self._name, error)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  # logging's name
        """Take an error of the file for what it is; leave others to logging."""
        error = sys.exc_info()[1]
        if isinstance(error, OSError):
            self._error = error
        else:
            super().handleError(record)
