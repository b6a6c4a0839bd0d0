"""What the ablation compares: the recipes of experiments/ablation and the runs that were made of them."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from engine import runs
from system import ROOT

SEEN = ("surgical", "cloth", "respirator", "sunglasses", "cap", "fringe", "block")
UNSEEN = ("hand", "niqab", "scarf")  # no member of the families hand and veil takes part in training
SEEDS = (1, 2, 3)
RECIPES = ROOT / "experiments/ablation"
METHOD, BASELINE = "full", "head-equal-time"


class Run(NamedTuple):
    """A variant trained with one seed, below the folder of all runs."""

    root: Path
    variant: str
    seed: int

    @property
    def folder(self) -> Path | None:
        """The newest run folder that was finished; None if there is none."""
        folders = runs.run_folders(self.root, f"ablation-{self.variant}-{self.seed}")
        return next((folder for folder in folders if (folder / "report/results.json").is_file()), None)
