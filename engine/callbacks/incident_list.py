"""The steps whose batches are worth a look: refused because of NaN or infinity, or of an unusual loss."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

from engine.files import WriteFailures, side_file
from engine.guard import Incident
from engine.host import names_of_sets, trained
from system.files import set_aside, write_text

NAME = "incidents.jsonl"


class IncidentList(Callback):
    """Keep `incidents.jsonl`: a line per incident, an object {step, cause, loss, indices}; none, no file.

    `indices` are positions in the training data, a list for each rank; of several data sets `sets` names, likewise, the
    one that each is a position in. A loss that is no number is null. A step is read one step later, so a run that is
    killed may miss its last one.

    The module must be `host.Trained`.

    Args:
        folder: the run folder, None on the ranks that write nothing.
        failures: told when the list cannot be written; None: that is an error.
    """

    def __init__(self, folder: Path | None, failures: WriteFailures | None = None) -> None:
        self._path = None if folder is None else Path(folder) / NAME
        self._failures = failures
        self._waiting: list[Incident] = []

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        """Write what was found since the batch before."""
        self._write(trainer, module)

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Write what the last step of the epoch was found to be."""
        self._write(trainer, module)

    def on_exception(self, trainer: pl.Trainer, module: pl.LightningModule, exception: BaseException) -> None:
        """Write what the run ended by."""
        self._write(trainer, module)

    def _write(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        found = trained(module).guard.incidents
        self._waiting += found
        found.clear()
        if self._path is not None and self._waiting:
            with side_file(self._failures, self._path.name):
                names = names_of_sets(trainer)
                lines = [json.dumps(_row(incident, names)) for incident in self._waiting]
                with self._path.open("a", encoding="utf-8") as stream:
                    stream.writelines(f"{line}\n" for line in lines)
                    stream.flush()
                    os.fsync(stream.fileno())
                self._waiting = []


def truncate_incidents(path: Path, last_step: int) -> None:
    """Drop the incidents after `last_step`, which a resumed run will meet again, and a line that a crash cut off."""
    if path.exists():
        lines = path.read_text("utf-8", "replace").split("\n")[:-1]
        steps = [_step(line) for line in lines]
        if None in steps:
            set_aside(path, "has lines that are no incidents")
        kept = [line for line, step in zip(lines, steps, strict=True) if step is not None and step <= last_step]
        write_text(path, "".join(f"{line}\n" for line in kept))


def _step(line: str) -> int | None:
    """Return the step of an incident, None if the line is none."""
    try:
        incident = json.loads(line)
    except (ValueError, RecursionError):
        return None
    step = incident.get("step") if isinstance(incident, dict) else None
    return step if isinstance(step, int) else None


def _row(incident: Incident, names: Sequence[str]) -> dict[str, Any]:
    """Return what a line holds; names are those of several data sets."""
    row = asdict(incident)
    numbers, loss = row.pop("sets"), row["loss"] if math.isfinite(row["loss"]) else None
    sets = {"sets": [[names[number] for number in rank] for rank in numbers]} if names else {}
    return row | {"loss": loss} | sets
