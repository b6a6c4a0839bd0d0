"""All ranks begin at one place: what each read from its own disks must be the same."""

from __future__ import annotations

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

from engine.host import data_of
from ops import gather_objects


class RanksDisagreeError(ValueError):
    """Ranks would train from different places or on different data; nothing else would ever tell."""


class SameStart(Callback):
    """Refuse to train when a rank found another checkpoint, or none, other data or another precision than rank 0.

    That happens where the nodes do not share the run folder or the data, or a shared disk shows an old state. DDP would
    give the ranks the same weights, and their batches would no longer be parts of one.

    The data module must be `host.Data`.
    """

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Compare step, number of images, labels and precision.

        Raises:
            RanksDisagreeError: on all ranks.
        """
        if trainer.world_size == 1:
            return
        by_rank = gather_objects(_start(trainer))
        for rank, start in enumerate(by_rank):
            if start != by_rank[0]:
                raise RanksDisagreeError(
                    f"rank {rank} would start with {_text(start)}, rank 0 with {_text(by_rank[0])}; run folder and "
                    "data must be on disks that all nodes share, and where CPUs differ name one --precision"
                )


def _start(trainer: pl.Trainer) -> dict[str, object]:
    return {"step": trainer.global_step, **data_of(trainer).facts(), "precision": trainer.precision}


def _text(start: dict[str, object]) -> str:
    return ", ".join(f"{name} {value}" for name, value in start.items())
