"""A picture of the scores after each validation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

from engine.files import WriteFailures, side_file
from engine.loggers.wandb_run import log_picture
from evaluation import MethodResult, score_histogram
from evaluation.run import SetResults


class ScoreHistograms(Callback):
    """Draw genuine and impostor scores into `histograms/step_<global step>.png` after each validation.

    A row for clean pairs and one for occluded pairs, a column per method, the pairs of all benchmarks together. The
    module keeps the results of its last validation in `last_results`.

    Args:
        folder: the run folder, None on the ranks that write nothing.
        failures: told when a picture cannot be written; None: that is an error.
    """

    def __init__(self, folder: Path | None, failures: WriteFailures | None = None) -> None:
        self._failures = failures
        self._folder = None if folder is None else Path(folder) / "histograms"

    def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Draw the picture; by now the module has evaluated the pairs of all ranks."""
        if self._folder is None:
            return
        results: SetResults = module.last_results  # type: ignore[assignment]
        synthetic = ", synthetic faces" if trainer.datamodule.synthetic else ""  # type: ignore[attr-defined]
        path = self._folder / f"step_{trainer.global_step}.png"
        title = f"step {trainer.global_step}: {', '.join(results)}{synthetic}"
        with side_file(self._failures, self._folder.name):
            from evaluation.report import plots

            plots.score_histograms(path, pooled_histograms(results), title)
            log_picture(trainer, "score_histograms", path)


def pooled_histograms(
    results: SetResults,
) -> dict[str, dict[str, dict[str, dict[str, list[float]]]]]:
    """Return {condition: {method: {"histogram": edges and counts}}} over the pairs of all benchmarks.

    Args:
        results: {benchmark: {condition: {method: result}}}, the same conditions and methods for each benchmark.
    """
    benchmarks = list(results.values())
    return {
        condition: {
            method: {"histogram": _pool([benchmark[condition][method] for benchmark in benchmarks])}
            for method in methods
        }
        for condition, methods in benchmarks[0].items()
    }


def _pool(results: Sequence[MethodResult]) -> dict[str, list[float]]:
    scores = np.concatenate([result.scores for result in results])
    return score_histogram(scores, np.concatenate([result.issame for result in results]))
