"""The page of a run while it runs: status.html and status.json, replaced as a whole every so many seconds."""

from __future__ import annotations

import logging
import math
import time
from argparse import Namespace
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial, wraps
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.loggers import Logger

from engine.callbacks.heartbeat import Beat, Beats
from engine.files import INCOMPLETE_CODE, WriteFailures, side_file
from engine.host import trained
from engine.internals import clock_fetches
from engine.runs import LOG_FORMAT, LOG_TIME, write_json
from engine.signals import Stopped
from engine.status.page import build_page
from engine.status.record import Point, Record
from engine.status.state import (
    FAILED,
    FINISHED,
    JSON,
    PAGE,
    SCHEMA,
    STOPPED,
    Best,
    Figure,
    IncidentTail,
    Status,
    clock_time,
    environment_of,
)
from options.engine import EngineOptions
from system.files import write_text
from system.page.courses import metric_rows
from system.processes import this_process
from system.terminal import LineFormatter, printable

_KEPT_WARNINGS = 10
_LONGEST = 2000  # characters of a line that the page repeats


class StatusLogger(Logger):
    """Gives what is logged to the record that a page is drawn from."""

    def __init__(self, record: Record) -> None:
        super().__init__()
        self._record = record

    @property
    def name(self) -> str:
        """Return the name Lightning shows for this logger."""
        return "status"

    @property
    def version(self) -> str:
        """Return an empty version: the run folder is the version."""
        return ""

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Do nothing: the run folder holds config.json."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Take a row in."""
        self._record.add(step or 0, {printable(name): value for name, value in metrics.items() if name != "epoch"})


class _LastWarnings(logging.Handler):
    """Keeps the last warnings and errors of the log, as lines and as what they say."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.setFormatter(LineFormatter(LOG_FORMAT, LOG_TIME))
        self.lines: deque[str] = deque(maxlen=_KEPT_WARNINGS)
        self.last_words: str | None = None

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(printable(self.format(record).partition("\n")[0], _LONGEST))
        self.last_words = printable(record.getMessage(), _LONGEST)


class StatusPage(Beats):
    """Write status.html and status.json every so many seconds, from what is logged and what the host knows anyway.

    They are written by a thread of its own. A file that cannot be written is told to `failures` and tried again the
    next time; nothing else depends on it.

    Args:
        folder: the run folder.
        options: of the run.
        failures: of the run.
    Attributes:
        logger: what a trainer must give its metrics to.
        is_supervised: whether somebody will call `end` when all is done; else the page ends with the training.
    """

    thread = "status page"

    def __init__(self, folder: Path, options: EngineOptions, failures: WriteFailures) -> None:
        super().__init__(options.status_seconds)
        self._folder, self._options, self._failures = folder, options, failures
        self._record, self._pace = Record(), Record()
        self.logger = StatusLogger(self._record)
        self.is_supervised = False
        self._incidents = IncidentTail(folder / "incidents.jsonl")
        self._warnings = _LastWarnings()
        self._waited: Callable[[], float] = lambda: 0.0
        self._last_wait = (0.0, 0.0)  # seconds waited for data, of seconds trained, at the last beat
        self._is_finishing = False
        self._origin: tuple[str | None, dict[str, str]] = (None, {})  # the command, versions
        self._end: tuple[str, str | None, int | None] | None = None  # state, last words, exit code

    # ---------------------------------------------------------------- the beginning and the end

    def setup(self, trainer: pl.Trainer, module: pl.LightningModule, stage: str) -> None:
        """Begin to write."""
        self._is_finishing, self._end = False, None
        self._waited, self._last_wait = clock_fetches(trainer), (0.0, self._trained)
        self._origin = environment_of(self._folder)
        logging.getLogger().addHandler(self._warnings)
        super().setup(trainer, module, stage)

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Take in what a run that goes on had logged before."""
        super().on_train_start(trainer, module)
        self._last_wait = (self._waited(), 0.0)
        if trainer.global_step:
            with side_file(self._failures, PAGE):
                for step, values in metric_rows(self._folder / "metrics.csv"):
                    if step <= trainer.global_step:
                        self.logger.log_metrics(values, int(step))

    def teardown(self, trainer: pl.Trainer, module: pl.LightningModule, stage: str) -> None:
        """End with the training, or go on until all is done."""
        self._is_finishing = True
        if not self.is_supervised and self._end is None:
            self.end(trainer, FINISHED)

    def on_exception(self, trainer: pl.Trainer, module: pl.LightningModule, exception: BaseException) -> None:
        """End with the training, or leave the last words to whoever supervises it."""
        if not self.is_supervised:
            stopped = isinstance(exception, Stopped)
            words = f"{exception}" if stopped else f"{type(exception).__name__}: {exception}"
            self.end(trainer, STOPPED if stopped else FAILED, words)

    def end(self, trainer: pl.Trainer, state: str, words: str | None = None, code: int | None = None) -> None:
        """Write for the last time.

        Args:
            trainer: of the run.
            state: FINISHED, STOPPED or FAILED.
            words: why, if there is something to say.
            code: the exit code of the program.
        """
        logging.getLogger().removeHandler(self._warnings)
        self._end = state, None if words is None else printable(words, _LONGEST), code
        if not self._close(partial(self._write, trainer)):
            self._write(trainer)

    def end_of_program(self, trainer: pl.Trainer, code: int) -> None:
        """Write for the last time what an exit code means, with the last words of the log."""
        state = {0: FINISHED, INCOMPLETE_CODE: FINISHED, 1: FAILED}.get(code, STOPPED)
        self.end(trainer, state, self._warnings.last_words if code else None, code)

    # ---------------------------------------------------------------- what is written

    def _first(self, trainer: pl.Trainer) -> None:
        self._write(trainer)

    def _tick(self, trainer: pl.Trainer) -> None:
        self._news_of_stall(trainer)  # the heartbeat says it
        self._write(trainer)

    def _write(self, trainer: pl.Trainer) -> None:
        with side_file(self._failures, PAGE):
            status = self._status(trainer)
            with side_file(self._failures, JSON):
                write_json(self._folder / JSON, status)
            write_text(self._folder / PAGE, build_page(status, self._record.lines(), self._pace.lines()))

    def _status(self, trainer: pl.Trainer) -> Status:
        beat, waiting, now = self._beat(trainer), self._waiting_share(), time.time()
        self._note_pace(beat, waiting)
        self._incidents.read_on()
        state, words, code = self._end or ("finishing" if self._is_finishing else beat["state"], None, None)
        figures = {name: _figure(*found) for name, found in self._record.figures().items()}
        return {
            "schema": SCHEMA,
            "run": printable(self._folder.resolve().name),
            "state": state,
            "words": words,
            "exit_code": code,
            "written": clock_time(now),
            "written_at": now,
            "every_seconds": self._seconds,
            "process": this_process(),
            "running_seconds": beat["running_seconds"],
            "occupation": beat["occupation"],
            "stalled": beat["stalled"],
            "step": beat["step"],
            "total_steps": beat["total_steps"],
            "epoch": beat["epoch"],
            "epochs": self._options.epochs,
            "seconds_to_go": beat["seconds_to_go"],
            "images_per_second": beat["images_per_second"],
            "waiting_share": waiting,
            "pairs": beat["pairs"],
            "total_pairs": beat["total_pairs"],
            "memory_bytes": beat["memory_bytes"],
            "gpu_memory_bytes": beat["gpu_memory_bytes"],
            "skipped_steps": 0 if trainer.lightning_module is None else trained(trainer.lightning_module).guard.skipped,
            "incidents": self._incidents.incidents,
            "best": _best(self._options.monitor, figures),
            "figures": figures,
            "warnings": list(self._warnings.lines),
            "command": self._origin[0],
            "versions": self._origin[1],
        }

    def _waiting_share(self) -> float | None:
        """Return the share of the time of training, since the last beat, that it waited for batches."""
        (waited, trained_for), now = self._last_wait, (self._waited(), self._trained)
        self._last_wait = now
        seconds = now[1] - trained_for
        return min(1.0, max(0.0, (now[0] - waited) / seconds)) if seconds > 0 else None

    def _note_pace(self, beat: Beat, waiting: float | None) -> None:
        if beat["images_per_second"]:
            memory = beat["memory_bytes"]
            values = {"waiting_share": waiting, "memory_gb": None if memory is None else memory / 1e9}
            known = {name: value for name, value in values.items() if value is not None}
            self._pace.add(beat["step"], {"images_per_second": beat["images_per_second"], **known})


def _figure(latest: Point, largest: Point | None) -> Figure:
    value = latest.value if math.isfinite(latest.value) else str(latest.value)
    most = (None, None) if largest is None else (largest.value, largest.step)
    return {"step": latest.step, "value": value, "largest": most[0], "largest_step": most[1]}


def _best(metric: str, figures: Mapping[str, Figure]) -> Best | None:
    found = figures.get(metric)
    if found is None or found["largest"] is None or found["largest_step"] is None:
        return None
    return {"metric": metric, "value": found["largest"], "step": found["largest_step"]}


def with_last_words(supervised: Callable[..., int]) -> Callable[..., int]:
    """Have a function that does all of a run, given its session, and returns its exit code leave word on its page."""

    @wraps(supervised)
    def run(session: Any, *args: Any, **kwargs: Any) -> int:
        trainer = session.trainer
        page = next((each for each in trainer.callbacks if isinstance(each, StatusPage)), None)
        if page is None:
            return supervised(session, *args, **kwargs)
        page.is_supervised = True
        try:
            code = supervised(session, *args, **kwargs)
        except SystemExit as end:
            page.end_of_program(trainer, end.code if isinstance(end.code, int) else int(end.code is not None))
            raise
        except BaseException as error:
            page.end(trainer, FAILED, f"{type(error).__name__}: {error}", 1)
            raise
        page.end_of_program(trainer, code)
        return code or session.failures.exit_code()

    return run
