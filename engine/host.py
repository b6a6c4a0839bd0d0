"""What the engine asks of a module that is trained, of its data and of its batches: nothing else of them is read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, cast, runtime_checkable

from torch import Tensor

if TYPE_CHECKING:  # an update needs no Lightning
    import pytorch_lightning as pl

    from engine.guard import RunningMeans, UpdateGuard


class Batch(Protocol):
    """A batch of training or validation."""

    @property
    def index(self) -> Tensor:
        """Positions in the data, int64 [B]."""


@runtime_checkable
class MixedBatch(Protocol):
    """A batch of several data sets."""

    @property
    def dataset_id(self) -> Tensor:
        """Numbers of the sets that the positions are in, int64 [B]."""


class Trained(Protocol):
    """A module that is trained; `TrainingModule` is one."""

    guard: UpdateGuard
    means: RunningMeans
    not_averaged: tuple[str, ...]


class Data(Protocol):
    """A data module; `TrainingData` is one."""

    unreadable: dict[str, str]

    @property
    def num_validated(self) -> int:
        """Return how many entries the batches of a validation, or a test, have over all ranks."""

    def drawn(self, epoch: int, batches: int) -> dict[str, int]:
        """Return how many images of each of several data sets training has had before a batch of an epoch."""

    def facts(self) -> dict[str, object]:
        """Return what must be the same on all ranks."""


def drawn_shares(trainer: pl.Trainer) -> dict[str, float]:
    """Return the share of each data set in what was drawn so far, by column of metrics.csv; nothing of one set."""
    drawn = _drawn(trainer, trainer.current_epoch, trainer.fit_loop.batch_idx + 1)
    total = max(1, sum(drawn.values()))
    return {f"drawn/{name}": count / total for name, count in drawn.items()}


def names_of_sets(trainer: pl.Trainer) -> list[str]:
    """Return the names of the data sets by their numbers; nothing of one set."""
    return list(_drawn(trainer, 0, 0))


def _drawn(trainer: pl.Trainer, epoch: int, batches: int) -> dict[str, int]:
    data = data_of(trainer)
    return {} if data is None else data.drawn(epoch, batches)


def trained(module: pl.LightningModule) -> Trained:
    """Return what a callback may read of the module."""
    return cast(Trained, module)


def data_of(trainer: pl.Trainer) -> Data:
    """Return what a callback may read of the data module that Lightning has attached to a trainer."""
    return cast(Data, trainer.datamodule)  # type: ignore[attr-defined]  # Lightning attaches it
