"""The runs of the study, and the words of the commands that train them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from benchmarks.studies.finished import Run

SEEDS = (1, 2, 3)
RECIPE, FINE_TUNING = "@experiments/recipes/moco_cpu.args", "@experiments/recipes/finetune.args"
ARMS = {"MoCo": ("moco", ("--pseudo_pairs", "0:0")), "MoCo + pseudo-identities": ("pseudo", ())}
STARTED_FROM = "MoCo + pseudo-identities"  # the arm whose encoders are fine-tuned
# Positions of the labeled images, and epochs: as many as make 240 or 250 steps, of 2, 20 and 125 batches an epoch.
LABELS = {
    "1 %": ("1", 125, ("--train_data_subset", "experiments/recipes/labels_1.txt")),
    "10 %": ("10", 12, ("--train_data_subset", "experiments/recipes/labels_10.txt")),
    "100 %": ("100", 2, ()),
}
_QUICKLY = ("--val_sets", "lfw", "--val_occlusion", "none")  # the study has its own pairs


def pretraining(root: Path, arm: str, seed: int) -> Run:
    """Return the pretraining of an arm."""
    name, words = ARMS[arm]
    return Run(root, f"pretraining-{name}-{seed}", ("pretrain", RECIPE, *words, "--seed", str(seed)))


def fine_tuning(root: Path, share: str, pretrained: bool, seed: int) -> Run:
    """Return the training with a share of the labels, from the pretrained encoder or from nothing.

    Raises:
        ValueError: if the pretraining that it starts from is not finished.
    """
    name, epochs, subset = LABELS[share]
    start: tuple[str, ...] = ()
    if pretrained:
        folder = pretraining(root, STARTED_FROM, seed).folder
        if folder is None:
            raise ValueError(f"--runs {root}: no finished pretraining of {STARTED_FROM}, seed {seed}; it comes first")
        start = ("--start_from_model_statedict", str(folder / "last.ckpt"))
    often = ("--epochs", str(epochs), "--check_val_every_n_epoch", str(epochs))
    kind = "pretrained" if pretrained else "scratch"
    words = (FINE_TUNING, *subset, *often, *_QUICKLY, "--seed", str(seed), *start)
    return Run(root, f"finetune-{kind}-{name}-{seed}", words)


def unfinished(root: Path, part: str) -> Iterator[str]:
    """Yield the commands of the runs of a part, pretraining or fine-tuning, that are still to do."""
    for seed in SEEDS:
        if part == "pretraining":
            wanted = [pretraining(root, arm, seed) for arm in ARMS]
        else:
            wanted = [fine_tuning(root, share, pretrained, seed) for share in LABELS for pretrained in (True, False)]
        yield from (run.command for run in wanted if run.folder is None)
