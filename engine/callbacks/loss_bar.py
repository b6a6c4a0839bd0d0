"""The progress bar of training."""

from __future__ import annotations

import pytorch_lightning as pl
from pytorch_lightning.callbacks import RichProgressBar


class LossBar(RichProgressBar):
    """Lightning's bar with the loss of the last step that the host knows: to ask for a newer one would make it wait.

    The module must have `guard`, an UpdateGuard.
    """

    def get_metrics(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        """Return what stands beside the bar."""
        metrics = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)
        loss: float = pl_module.guard.loss  # type: ignore[union-attr, assignment]  # see class
        return {"loss": f"{loss:.4g}", **metrics}
