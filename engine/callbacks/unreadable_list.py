"""A list of the images that training could not read, and an end to the run when they are too many."""

from __future__ import annotations

from pathlib import Path

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback

from engine.files import WriteFailures, side_file
from ops import gather_objects
from system.files import write_text
from system.terminal import escaped, printable

_COUNT_EVERY = 50


class TooManyUnreadableError(RuntimeError):
    """A larger share of the training images than allowed cannot be read."""


class UnreadableList(Callback):
    """Keep `unreadable.txt`: path, tab, reason of every unreadable image that any rank met, sorted; none, no file.

    Both are written as `terminal.escaped` does, so that a line is a line and every name can be had back.

    It is written at the end of each epoch, so a run that is killed misses those of its last epoch at most. A resumed
    run adds to the file.

    Args:
        folder: the run folder, None on the ranks that write nothing.
        max_bad_fraction: share of the training images that may be unreadable; unless it is 0, one always may.
        failures: told when the list cannot be written; None: that is an error.
    """

    def __init__(self, folder: Path | None, max_bad_fraction: float, failures: WriteFailures | None = None) -> None:
        self._failures = failures
        self._path = None if folder is None else Path(folder) / "unreadable.txt"
        self._max_bad_fraction = max_bad_fraction

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        """Count what all ranks found so far, every 50 batches: counting makes them wait for each other."""
        if (batch_idx + 1) % _COUNT_EVERY == 0:
            count = torch.tensor(float(len(_found(trainer))), device=module.device)
            # An image is drawn by one rank of an epoch; of several epochs it may be counted twice, which errs little.
            self._stop_above_limit(int(trainer.strategy.reduce(count, reduce_op="sum")), trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Give every rank the findings of all, and write them."""
        found = self._gather(trainer)
        self._stop_above_limit(len(found), trainer)

    def on_exception(self, trainer: pl.Trainer, module: pl.LightningModule, exception: BaseException) -> None:
        """Write what this rank found before the run ended."""
        if self._path is not None and (found := _found(trainer)):
            self._add(self._path, found)

    def _gather(self, trainer: pl.Trainer) -> dict[str, str]:
        found = _found(trainer)
        for findings in gather_objects(found):
            found.update(findings)
        if self._path is not None and found:
            self._add(self._path, found)
        return found

    def _add(self, path: Path, found: dict[str, str]) -> None:
        with side_file(self._failures, path.name):
            reasons = _read(path) | {escaped(name): escaped(reason) for name, reason in found.items()}
            write_text(path, "".join(f"{name}\t{reason}\n" for name, reason in sorted(reasons.items())))

    def _stop_above_limit(self, count: int, trainer: pl.Trainer) -> None:
        total = len(trainer.datamodule.train_dataset)  # type: ignore[attr-defined]  # Lightning attaches it
        allowed = max(1, int(self._max_bad_fraction * total)) if self._max_bad_fraction else 0
        if count > allowed:
            raise TooManyUnreadableError(
                f"--max_bad_fraction {self._max_bad_fraction:g}: {count} of {total} training images cannot be read, "
                f"{allowed} may; unreadable.txt in the run folder lists them. Repair the data or raise the flag"
            )


def _found(trainer: pl.Trainer) -> dict[str, str]:
    found: dict[str, str] = trainer.datamodule.unreadable  # type: ignore[attr-defined]  # Lightning attaches it
    return found


def _read(path: Path) -> dict[str, str]:
    if not path.exists():
        return {}
    lines = path.read_text("utf-8", "surrogateescape").split("\n")  # a list of an earlier version has names as bytes
    return {printable(name): printable(reason) for name, tab, reason in (line.partition("\t") for line in lines) if tab}
