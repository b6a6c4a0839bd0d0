"""What the ablation compares: the recipes of experiments/ablation, the runs that were made of them, and the claims."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from engine import runs
from system import ROOT

SEEN = ("surgical", "cloth", "respirator", "sunglasses", "cap", "fringe", "block")
UNSEEN = ("hand", "niqab", "scarf")  # no member of the families hand and veil takes part in training
SEEDS = (1, 2, 3)  # of the variants that are claimed about; the others, to choose from, have the first
RECIPES = ROOT / "experiments/ablation"
CLAIMED = tuple(sorted(path.stem for path in (RECIPES / "claims").glob("*.args")))
VARIANTS = (*CLAIMED, *sorted(path.stem for path in (RECIPES / "choices").glob("*.args")))


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


class Method(NamedTuple):
    """One of evaluation's methods with the runs of a variant."""

    variant: str
    method: str


class Claim(NamedTuple):
    """A difference shown on test people, mean over seeds: first minus second."""

    title: str
    first: Method
    second: Method

    @property
    def sides(self) -> tuple[Method, Method]:
        """Both sides."""
        return self.first, self.second


CLAIMS = (
    Claim("fused minus head only", Method("full", "combined"), Method("head", "adaface")),
    Claim("fused minus head only at equal time", Method("full", "combined"), Method("head-equal-time", "adaface")),
    Claim("embedding minus head only", Method("full", "adaface"), Method("head", "adaface")),
    Claim("fused minus its own embedding", Method("full", "combined"), Method("full", "adaface")),
    Claim("fused minus fused without visibility", Method("full", "combined"), Method("full-none", "combined")),
    Claim("matcher minus matcher without visibility", Method("full", "qaconv"), Method("full-none", "qaconv")),
)
