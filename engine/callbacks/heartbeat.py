"""A sign of life every so many seconds: how far training is, how fast, how much memory; and whether it stalls."""

from __future__ import annotations

import logging
import os
import statistics
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TypedDict
from weakref import WeakKeyDictionary

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch import nn

from engine.callbacks.workers import describe_workers, resident_bytes, workers
from engine.files import WriteFailures, side_file
from engine.host import Batch, data_of
from engine.runs import write_json
from system.memory import gigabytes

logger = logging.getLogger(__name__)

FILE = "heartbeat.json"
STALL_STEPS = 10  # times the usual time from batch to batch
_REMEMBERED = 100  # batches whose median time is the usual one
_STATES = {"train": "training", "validate": "validating", "test": "testing"}
_SECONDS_TO_STOP = 5.0  # a disk that hangs must not keep the run from ending


class _Clock(threading.Thread):
    """Does something every so many seconds, until it is told to leave, and nothing after the last thing."""

    def __init__(self, name: str, seconds: float, tick: Callable[[], None]) -> None:
        super().__init__(name=name, daemon=True)
        self._seconds, self._tick = seconds, tick
        self._over, self._lock = threading.Event(), threading.Lock()
        self._is_done = False
        self._last: Callable[[], None] | None = None

    def run(self) -> None:
        try:
            while not self._over.wait(self._seconds):
                self._tick()
        finally:
            with self._lock:
                self._is_done = True
            if self._last is not None:
                self._last()

    def leave(self, last: Callable[[], None]) -> None:
        """End the thread, then do the last thing; where it hangs in a write, it does that itself when it comes out."""
        self._over.set()
        self.join(_SECONDS_TO_STOP)
        with self._lock:
            hangs = not self._is_done
            if hangs:
                self._last = last  # done here and now, the write that hangs would come after it
        if not hangs:
            last()


_occupations: WeakKeyDictionary[nn.Module, str] = WeakKeyDictionary()


@contextmanager
def occupied(module: nn.Module, by: str) -> Iterator[Callable[[str], None]]:
    """Say for a while what the training of a module waits for, so that the heartbeat takes it for no stall.

    Gives a function that says it more exactly.
    """
    before = _occupations.get(module)

    def say(what: str) -> None:
        _occupations[module] = what

    say(by)
    try:
        yield say
    finally:
        if before is None:
            del _occupations[module]
        else:
            say(before)


class Progress(TypedDict):
    """How far a validation or test is; None in training."""

    pairs: int | None  # that all ranks have done
    total_pairs: int | None
    pairs_per_second: float | None  # since it began


class Beat(Progress):
    """What `heartbeat.json` holds; None stands for what is not known, or not yet."""

    state: str  # starting, training, validating, testing; at the end: over, or failed or stopped
    occupation: str | None  # what training waits for, such as embedding the data
    step: int
    total_steps: int | None
    epoch: int
    drawn: dict[str, float]  # share of each of several data sets in the images trained on since the beat before
    images_per_second: float  # that were trained on by all ranks, since the beat before
    seconds_to_go: float | None  # of training, at its pace since it was started or resumed; validations come on top
    memory_bytes: int | None  # resident set of this rank and its workers; pages that they share count for each
    gpu_memory_bytes: int | None  # that torch holds of this rank's GPU
    running_seconds: float
    stalled: str | None  # while no batch is finished: the workers, and which of them are stopped
    time: str  # the wall clock's, local with its offset; nothing else depends on that clock


class Beats(Callback):
    """Looks every so many seconds how far a training is and how fast, also while it waits; a subclass tells of it.

    A stall is when no batch was finished for the time between two beats and for 10 times the usual time from batch to
    batch, and nothing said what else it is `occupied` by.

    All is read by a thread of its own from what the host knows anyway: nobody waits for a device, and nothing that is
    trained or logged depends on it.

    Args:
        seconds: between two beats.
    """

    thread = "beats"

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._clock: _Clock | None = None
        self._begin = self._train_mark = self._last_sign = self._last_beat = time.monotonic()
        self._first_step = 0
        self._total_steps: int | None = None
        self._images = self._last_images = 0  # of this rank: so far, and at the last beat
        self._place: tuple[int, int] | None = None  # the epoch, and its batches so far
        self._last_drawn: dict[str, int] = {}  # of each of several data sets, at the last beat
        self._trained = 0.0  # seconds that the batches so far have taken, without validations
        self._pairs: tuple[int, float] | None = None  # in the validation or test at hand: done, and when it began
        self._durations: deque[float] = deque(maxlen=_REMEMBERED)
        self._stall: str | None = None

    def _first(self, trainer: pl.Trainer) -> None:
        """Tell where training begins, before the thread starts."""

    def _tick(self, trainer: pl.Trainer) -> None:
        """Tell how far training is; called by the thread."""
        raise NotImplementedError

    # ---------------------------------------------------------------- the beginning and the end

    def setup(self, trainer: pl.Trainer, module: pl.LightningModule, stage: str) -> None:
        """Start the thread, if it does not run."""
        self._stall = None
        self._last_sign = self._last_beat = time.monotonic()
        if self._clock is None:
            self._first(trainer)
            self._clock = _Clock(self.thread, self._seconds, partial(self._tick, trainer))
            self._clock.start()

    def _close(self, last: Callable[[], None]) -> bool:
        """Stop the thread and do the last thing, and return whether it ran."""
        clock, self._clock = self._clock, None
        if clock is not None:
            clock.leave(last)
        return clock is not None

    # ---------------------------------------------------------------- signs of life

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Note where training starts or goes on, and how far it is to go."""
        self._total_steps = int(trainer.estimated_stepping_batches)
        self._first_step, self._trained = trainer.global_step, 0.0
        self._durations.clear()
        self._last_sign = self._train_mark = time.monotonic()

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: object, batch: Batch, batch_idx: int
    ) -> None:
        """Note a batch and its images."""
        if self._place is None:
            self._last_drawn = data_of(trainer).drawn(trainer.current_epoch, batch_idx)
        self._place = trainer.current_epoch, batch_idx + 1
        self._images += len(batch.index)
        self._trained += time.monotonic() - self._train_mark
        self._train_mark = time.monotonic()
        self._note_batch()

    def on_validation_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Note that pairs are to be scored, and that the clock of training stands still."""
        self._begin_pairs()

    def on_test_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Note that pairs are to be scored."""
        self._begin_pairs()

    def on_validation_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: object, batch: Batch, *place: object
    ) -> None:
        """Note a batch and its pairs."""
        self._note_pairs(len(batch.index) * trainer.world_size)

    def on_test_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: object, batch: Batch, *place: object
    ) -> None:
        """Note a batch and its pairs."""
        self._note_pairs(len(batch.index) * trainer.world_size)

    def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Let the clock of training go on."""
        self._end_pairs()

    def on_test_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Note that all pairs are scored."""
        self._end_pairs()

    def _begin_pairs(self) -> None:
        now = time.monotonic()
        self._trained += now - self._train_mark
        self._pairs = (0, now)

    def _note_pairs(self, count: int) -> None:
        if self._pairs is not None:
            self._pairs = (self._pairs[0] + count, self._pairs[1])
        self._note_batch()

    def _end_pairs(self) -> None:
        self._pairs = None
        self._train_mark = self._last_sign = time.monotonic()

    def _note_batch(self) -> None:
        now = time.monotonic()
        self._durations.append(now - self._last_sign)
        self._last_sign = now

    # ---------------------------------------------------------------- the thread

    def _news_of_stall(self, trainer: pl.Trainer) -> str | None:
        """Return what is to be said of a stall that has begun or ended since the last look, if anything."""
        if _occupation(trainer) is not None:
            self._last_sign = time.monotonic()
        silent = time.monotonic() - self._last_sign
        usual = statistics.median(tuple(self._durations) or (0.0,))
        rank = f"rank {trainer.global_rank}: " if trainer.world_size > 1 else ""
        if silent < max(self._seconds, STALL_STEPS * usual):
            had_stalled, self._stall = self._stall is not None, None
            return f"{rank}training goes on" if had_stalled else None
        if self._stall is not None:
            return None
        peers = "; perhaps it waits for another rank, which says so too" if rank else ""
        self._stall = f"{describe_workers()}{peers}"
        return f"{rank}no batch was finished for {silent:.0f} s: {self._stall}"

    def _beat(self, trainer: pl.Trainer) -> Beat:
        now, so_far = time.monotonic(), self._images
        images, interval = so_far - self._last_images, now - self._last_beat
        self._last_images, self._last_beat = so_far, now
        return {
            "state": _STATES.get(str(trainer.state.stage and trainer.state.stage.value), "starting"),
            "occupation": _occupation(trainer),
            "step": trainer.global_step,
            "total_steps": self._total_steps,
            "epoch": trainer.current_epoch,
            "drawn": self._shares_drawn(trainer),
            "images_per_second": round(images * trainer.world_size / interval, 2) if interval else 0.0,
            "seconds_to_go": self._seconds_to_go(trainer.global_step),
            **self._progress(trainer, now),
            "memory_bytes": _memory(),
            "gpu_memory_bytes": _gpu_memory(trainer),
            "running_seconds": round(now - self._begin, 1),
            "stalled": self._stall,
            "time": datetime.fromtimestamp(time.time()).astimezone().isoformat(timespec="seconds"),
        }

    def _shares_drawn(self, trainer: pl.Trainer) -> dict[str, float]:
        before, now = self._last_drawn, {} if self._place is None else data_of(trainer).drawn(*self._place)
        self._last_drawn = now
        images = {name: count - before.get(name, 0) for name, count in now.items()}
        total = sum(images.values())
        return {name: round(count / total, 4) for name, count in images.items()} if total else {}

    def _seconds_to_go(self, step: int) -> float | None:
        # By finished batches alone: a pause of any kind must not make the guess rise.
        done = step - self._first_step
        if self._total_steps is None or done <= 0:
            return None
        return round((self._total_steps - step) * self._trained / done, 1)

    def _progress(self, trainer: pl.Trainer, now: float) -> Progress:
        if self._pairs is None:
            return {"pairs": None, "total_pairs": None, "pairs_per_second": None}
        done, begin = self._pairs
        total = data_of(trainer).num_validated
        rate = round(done / (now - begin), 2) if now > begin else 0.0
        return {"pairs": min(done, total), "total_pairs": total, "pairs_per_second": rate}


class Heartbeat(Beats):
    """Write a line and `heartbeat.json` every so many seconds, also while training waits, and say once that it stalls.

    Every rank tells its own stalls.

    Args:
        folder: the run folder, None on the ranks that write nothing.
        seconds: between two beats.
        failures: told when the file cannot be written; None: that is an error.
    """

    thread = "heartbeat"

    def __init__(self, folder: Path | None, seconds: float, failures: WriteFailures | None = None) -> None:
        super().__init__(seconds)
        self._path = None if folder is None else Path(folder) / FILE
        self._failures = failures

    def teardown(self, trainer: pl.Trainer, module: pl.LightningModule, stage: str) -> None:
        """Stop the heartbeat."""
        self._leave(trainer, "over")

    def on_exception(self, trainer: pl.Trainer, module: pl.LightningModule, exception: BaseException) -> None:
        """Stop the heartbeat, and leave word how training ended."""
        self._leave(trainer, "failed or stopped")

    def _leave(self, trainer: pl.Trainer, state: str) -> None:
        self._close(lambda: self._write({**self._beat(trainer), "state": state}))

    def _first(self, trainer: pl.Trainer) -> None:
        self._write(self._beat(trainer))

    def _tick(self, trainer: pl.Trainer) -> None:
        self._look_for_stall(trainer)
        beat = self._beat(trainer)
        self._write(beat)
        if self._path is not None:
            logger.info("heartbeat: %s", _line(beat))

    def _look_for_stall(self, trainer: pl.Trainer) -> None:
        if news := self._news_of_stall(trainer):
            logger.warning("%s", news)

    def _write(self, beat: Beat) -> None:
        if self._path is not None:
            with side_file(self._failures, FILE):
                write_json(self._path, beat)


def _occupation(trainer: pl.Trainer) -> str | None:
    module = trainer.lightning_module  # None: nothing is trained yet
    return None if module is None else _occupations.get(module)


def _memory() -> int | None:
    """Return the resident set of this process and its workers."""
    own, *others = map(resident_bytes, (os.getpid(), *workers()))
    return None if own is None else own + sum(size for size in others if size is not None)


def _gpu_memory(trainer: pl.Trainer) -> int | None:
    device = trainer.strategy.root_device
    # The allocator's own count: asking the driver might wait for the device.
    return torch.cuda.memory_reserved(device) if device.type == "cuda" else None


def _line(beat: Beat) -> str:
    doing = beat["occupation"] or beat["state"]
    parts = [doing, f"step {beat['step']} of {beat['total_steps']}", f"epoch {beat['epoch']}"]
    if beat["pairs"] is None:
        parts.append(f"{beat['images_per_second']:.1f} images/s")
    else:
        parts.append(f"{beat['pairs']} of {beat['total_pairs']} pairs, {beat['pairs_per_second']:.1f} pairs/s")
    if beat["drawn"]:
        parts.append("drawn " + ", ".join(f"{name} {share:.0%}" for name, share in beat["drawn"].items()))
    if beat["seconds_to_go"] is not None and beat["state"] != _STATES["test"]:
        parts.append(f"{timedelta(seconds=round(beat['seconds_to_go']))} of training to go")
    sizes = {"memory": beat["memory_bytes"], "GPU memory": beat["gpu_memory_bytes"]}
    parts += [f"{name} {gigabytes(size)}" for name, size in sizes.items() if size is not None]
    return ", ".join(parts)
