"""A list of the images that training could not read."""

from __future__ import annotations

import os
from pathlib import Path

import pytorch_lightning as pl
import torch.distributed as dist
from pytorch_lightning.callbacks import Callback

_ERRORS = "surrogateescape"  # file names are bytes: those that are no UTF-8 survive too


class UnreadableList(Callback):
    """Keep `unreadable.txt`: path, tab, reason of every unreadable image that any rank met, sorted; none, no file.

    It is written at the end of each epoch, so a run that is killed misses those of its last epoch at most. A resumed
    run adds to the file.

    Args:
        folder: the run folder, None on the ranks that write nothing.
    """

    def __init__(self, folder: Path | None) -> None:
        self._path = None if folder is None else Path(folder) / "unreadable.txt"

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Give every rank the findings of all, and write them."""
        found: dict[str, str] = trainer.datamodule.unreadable  # type: ignore[attr-defined]  # Lightning attaches it
        if dist.is_available() and dist.is_initialized():
            by_rank: list[dict[str, str]] = [{} for _ in range(dist.get_world_size())]
            dist.all_gather_object(by_rank, found)
            for findings in by_rank:
                found.update(findings)
        if self._path is not None and found:
            _write(self._path, _read(self._path) | found)


def _read(path: Path) -> dict[str, str]:
    if not path.exists():
        return {}
    lines = path.read_text("utf-8", _ERRORS).split("\n")
    return dict(line.split("\t", 1) for line in lines if "\t" in line)


def _write(path: Path, reasons: dict[str, str]) -> None:
    """Write the file as a whole: to a temporary name, synced, then renamed."""
    temporary = path.with_suffix(".txt.tmp")
    with temporary.open("w", encoding="utf-8", errors=_ERRORS) as stream:
        stream.writelines(f"{name}\t{reason}\n" for name, reason in sorted(reasons.items()))
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(path)
