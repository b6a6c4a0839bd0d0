"""One run of the ablation: main.py in a process of its own, then the scores of its last checkpoint."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.ablation.scores import GROUPS, People, render_people, score_people
from benchmarks.ablation.variants import SEEDS, Variant, training_flags
from engine import runs

ROOT = Path(__file__).resolve().parents[2]
FUSED_MAPS = "dev-fused-maps"  # scores beside those of the groups
RECORD = "run.json"  # written last: a folder without it is begun again


class Run(NamedTuple):
    """One variant with one seed, and where its results lie."""

    variant: Variant
    seed: int
    folder: Path

    @classmethod
    def of(cls, variant: Variant, seed: int, output: Path) -> Run:
        """Return the run of a variant with a seed below the ablation's output folder."""
        return cls(variant, seed, output / f"{variant.name}-{seed}")

    @property
    def groups(self) -> tuple[str, ...]:
        """The people it is scored on. Nobody looks at the test people of a variant that is there to choose from."""
        return GROUPS if self.variant.seeds == SEEDS else GROUPS[:1]

    @property
    def is_done(self) -> bool:
        """Whether scores and record are there, of the flags as they are now."""
        path = self.folder / RECORD
        scored = all((self.folder / f"{group}.npz").exists() for group in self.groups)
        return scored and path.exists() and json.loads(path.read_text())["flags"] == self.variant.flags

    def record(self) -> dict[str, float]:
        """Return {"epochs", "processor_seconds", ...} of a finished run."""
        return json.loads((self.folder / RECORD).read_text())

    def scores(self, group: str) -> dict[str, NDArray[np.float32]]:
        """Return the saved scores of a group of people."""
        with np.load(self.folder / f"{group}.npz") as saved:
            return dict(saved)


def perform(run: Run, data: Path, epochs: int, people: dict[str, People]) -> None:
    """Train, score every group of people, and leave scores, run folder and record in the run's folder.

    Raises:
        RuntimeError: if the training fails; its output is named.
    """
    run.folder.parent.mkdir(parents=True, exist_ok=True)
    if run.folder.exists():
        shutil.rmtree(run.folder)
    temporary = Path(tempfile.mkdtemp(prefix=f".{run.folder.name}-", dir=run.folder.parent))
    seconds = _train(run, data, epochs, temporary)
    for group, members in people.items():
        np.savez(temporary / f"{group}.npz", **score_people(checkpoint_in(temporary), members))  # type: ignore[arg-type]
    record = {"flags": run.variant.flags, "seed": run.seed, "epochs": epochs, "processor_seconds": seconds}
    runs.write_json(temporary / RECORD, record)
    temporary.rename(run.folder)


def checkpoint_in(folder: Path) -> Path:
    """Return the last checkpoint of the run in an ablation folder."""
    (checkpoint,) = folder.glob("experiments/*/last.ckpt")
    return checkpoint


def score_fused_maps(run: Run) -> None:
    """Score development people with image and mirror image fused into one map, which evaluation does not do."""
    path = run.folder / f"{FUSED_MAPS}.npz"
    if not path.exists():
        scores = score_people(checkpoint_in(run.folder), _people["dev"], "map")
        temporary = path.with_suffix(".tmp.npz")
        np.savez(temporary, **scores)  # type: ignore[arg-type]
        temporary.replace(path)


def _train(run: Run, data: Path, epochs: int, folder: Path) -> float:
    """Run main.py and return its processor seconds: other programs on the machine do not count."""
    words = [sys.executable, str(ROOT / "main.py"), "--data_root", str(data), "--prefix", run.variant.name]
    import resource  # here: Windows has none

    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with (folder / "output.txt").open("w") as output:
        done = subprocess.run(
            [*words, *training_flags(run.variant, run.seed, epochs)],
            cwd=folder,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    if done.returncode:
        raise RuntimeError(f"{run.variant.name}, seed {run.seed}: training failed, see {folder / 'output.txt'}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


# A module of its own name, unlike __main__, can be found by worker processes that are spawned.
_people: dict[str, People] = {}


def prepare_worker(num_people: int) -> None:
    """Render the people that the runs of this process are scored on."""
    torch.set_num_threads(1)
    _people.update({group: render_people(group, num_people) for group in GROUPS})


def perform_in_worker(run: Run, data: Path, epochs: int) -> None:
    """Perform a run with the people of this process."""
    perform(run, data, epochs, {group: _people[group] for group in run.groups})
