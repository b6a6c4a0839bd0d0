"""The progress bar of training."""

from __future__ import annotations

import pytorch_lightning as pl
from pytorch_lightning.callbacks import RichProgressBar

from engine.host import trained


class LossBar(RichProgressBar):
    """Lightning's bar with the loss of the last step that the host knows: to ask for a newer one would make it wait.

    The module must be `host.Trained`.
    """

    def get_metrics(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        """Return what stands beside the bar."""
        metrics = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)
        return {"loss": f"{trained(pl_module).guard.loss:.4g}", **metrics}
