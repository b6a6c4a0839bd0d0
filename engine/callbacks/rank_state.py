"""What each rank knows for itself and a resumed run needs again."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback

from engine.host import data_of, trained
from ops import gather_objects

KEY = "ranks"


class RankState(Callback):
    """Put into every checkpoint, per rank: random generators, running means of metrics.csv, images not readable.

    A run that goes on with as many ranks goes on exactly. With another number the means and the images are dealt out,
    so that their totals stay, and the generators start from the seed: nothing that training computes draws from them.

    The module must be `host.Trained`, the data module `host.Data`.
    """

    def __init__(self) -> None:
        self._loaded: list[dict[str, Any]] = []

    def on_save_checkpoint(self, trainer: pl.Trainer, module: pl.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Collect it from all ranks, as plain data."""
        checkpoint[KEY] = gather_objects(
            {
                "generators": _generators(),
                "means": trained(module).means.state_dict(),
                "unreadable": dict(data_of(trainer).unreadable),
            }
        )

    def on_load_checkpoint(self, trainer: pl.Trainer, module: pl.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Keep it until training starts."""
        self._loaded = checkpoint.get(KEY, [])

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Take this rank's share."""
        loaded, self._loaded = self._loaded, []
        shares = loaded[trainer.global_rank :: trainer.world_size]
        if loaded:
            names = list(loaded[0]["means"])  # on every rank: the ranks compute their means together
            trained(module).means.load_state_dicts([share["means"] for share in shares], names, module.device)
        for share in shares:
            data_of(trainer).unreadable.update(share["unreadable"])
        if len(loaded) == trainer.world_size:
            _set_generators(shares[0]["generators"])


def _generators() -> dict[str, Any]:
    """Return the states of all generators of this process, loadable with weights_only."""
    _, keys, *rest = np.random.get_state(legacy=True)
    states: dict[str, Any] = {
        "python": random.getstate(),
        "numpy": [np.asarray(keys).tolist(), *rest],
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def _set_generators(states: Mapping[str, Any]) -> None:
    random.setstate(states["python"])
    keys, *rest = states["numpy"]
    np.random.set_state(("MT19937", np.array(keys, np.uint32), *rest))
    torch.set_rng_state(states["torch"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])
