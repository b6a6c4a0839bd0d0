"""The runs of the study, and the words of the commands that train them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

from benchmarks.finetuning_study import people
from benchmarks.studies.finished import Run

SEEDS = (1, 2, 3)
BOTH, PAIRED, SCRATCH = "margin + teacher", "paired cosine alone, chosen by it", "from scratch"
_NO_TEACHER = ("--teacher_weight", "0", "--remember_weight", "0")
# Rates as measured on other real faces, see docs/finetuning.md; adapters take ten times that of a whole network.
ARMS: dict[str, tuple[str, tuple[str, ...]]] = {
    BOTH: ("both", ()),
    "margin head": ("margin", _NO_TEACHER),
    "teacher terms": ("teacher", ("--adaface_loss_weight", "0", "--lr", "3e-4")),
    "margin + teacher, LoRA of rank 8": ("lora", ("--lora_rank", "8", "--lr", "1e-3", "--lr_factors", "heads.*=1")),
    SCRATCH: (
        "scratch",
        (
            *("--head_start", "random", *_NO_TEACHER, "--head_views", "both"),
            *("--s", "32", "--m", "0.3", "--lr", "1e-3", "--lr_factors", "heads.*=1"),
        ),
    ),
    PAIRED: (
        "paired",
        (
            *("--adaface_loss_weight", "0", *_NO_TEACHER, "--paired_weight", "1", "--both_gradients"),
            *("--monitor", "val_paired_mean"),
        ),
    ),
}
DEMO = (BOTH, SCRATCH)
_TUNING = ("@experiments/recipes/low_resolution.args", "--val_identities", "0.1", "--align", "no")
_OFTEN = ("--check_val_every_n_epoch", "5", "--num_workers", "0")
_EPOCHS = {"real": "20", "synthetic": "10"}  # 120 steps, and 130
# A small network of its own: that of the demo, the embedding alone.
_SMALL = (
    *("@experiments/recipes/finetune.args", "--qaconv_loss_weight", "0", "--occlusion_loss_weight", "0"),
    *("--occlusion_method", "none", "--occlusion_prob", "0", "--val_occlusion", "none"),
)
_NETWORK_EPOCHS, _MIXTURE_EPOCHS = 4, 10
MIXTURE, NAIVE = "one model", "one label space"
CURRICULUM, CONSTANT = "curriculum", "constant weights"


class Real(NamedTuple):
    """Aligned crops of real people, a folder each, and the weights of an EdgeFace-XXS."""

    faces: Path
    weights: Path


def network(root: Path) -> Run:
    """Return the training of the small network on drawn faces at a high resolution."""
    epochs = str(_NETWORK_EPOCHS)
    often = ("--epochs", epochs, "--check_val_every_n_epoch", epochs, "--val_sets", "lfw", "--seed", "1")
    return Run(root, "finetune-network", (*_SMALL, *often))


@cache
def _positions(root: Path, faces: Path) -> Path:
    return people.RealPeople(faces).write_positions(root / "finetuning-data/real_people.txt")


def real(root: Path, of: Real, arm: str, seed: int) -> Run:
    """Return an arm's run on real faces."""
    positions = _positions(root, of.faces)
    data = ("--data_root", str(of.faces), "--train_data_subset", str(positions))
    start = ("--start_from_model_statedict", str(of.weights), "--color_space", "rgb")
    return _tuned(root, "real", (*data, *(() if arm == SCRATCH else start)), arm, seed)


def synthetic(root: Path, arm: str, seed: int) -> Run:
    """Return an arm's run on drawn faces.

    Raises:
        ValueError: if the training of the network that it starts from is not finished.
    """
    folder = network(root).folder
    if folder is None:
        raise ValueError(f"--runs {root}: no finished run {network(root).name}_*; it comes first")
    data = ("--arch", "ir_tiny", "--embedding_size", "128", "--data_root", str(people.training_folder(root)))
    start = ("--start_from_model_statedict", str(folder / "last.ckpt"), "--load", "backbone")
    return _tuned(root, "synthetic", (*data, *(() if arm == SCRATCH else start)), arm, seed)


def _tuned(root: Path, data: str, words: tuple[str, ...], arm: str, seed: int) -> Run:
    name, own = ARMS[arm]
    often = ("--epochs", _EPOCHS[data], *_OFTEN)
    return Run(root, f"finetune-{data}-{name}-{seed}", (*_TUNING, *words, *often, *own, "--seed", str(seed)))


def checkpoint(run: Run, arm: str) -> Path | None:
    """Return what an arm is measured by: its last epoch, or what the paired cosine chose; None: not finished."""
    return run.folder and run.folder / ("best.ckpt" if arm == PAIRED else "last.ckpt")


def mixture(root: Path, seed: int) -> dict[str, Run]:
    """Return by name the runs of the mixture study: one model, a specialist for each set, and so on.

    All but the last two see each image of their data equally often; those see half as many, alike.
    """
    folders = people.mixture_folders(root)
    sets = tuple(word for name in people.SETS for word in ("--data", f"{name}={folders[name]}"))
    half = ("--epoch_share", "0.5", "--curriculum_epochs")
    turning = f"0,{_MIXTURE_EPOCHS}"
    words = {
        MIXTURE: ("mixture", sets),
        **{name: (name, ("--data_root", str(folders[name]))) for name in people.SETS},
        NAIVE: ("naive", ("--data_root", str(folders["all"]))),
        CURRICULUM: ("curriculum", (*sets, *half, turning, "--curriculum", "resolution")),
        CONSTANT: ("constant", (*sets, *half, "0,0")),
    }
    epochs = str(_MIXTURE_EPOCHS)
    often = ("--epochs", epochs, "--check_val_every_n_epoch", epochs, "--align", "no", "--num_workers", "0")
    return {
        arm: Run(root, f"mixture-{name}-{seed}", (*_SMALL, *own, *often, "--seed", str(seed)))
        for arm, (name, own) in words.items()
    }


def unfinished(root: Path, part: str, of: Real | None) -> Iterator[str]:
    """Yield the commands of the runs of a part that are still to do, those of a seed after the other."""
    wanted: dict[str, Callable[[int], list[Run]]] = {
        "real": lambda seed: [] if of is None else [real(root, of, arm, seed) for arm in ARMS],
        "network": lambda seed: [network(root)] if seed == SEEDS[0] else [],
        "synthetic": lambda seed: [synthetic(root, arm, seed) for arm in ARMS],
        "demo": lambda seed: [synthetic(root, arm, seed) for arm in DEMO] if seed == SEEDS[0] else [],
        "mixture": lambda seed: list(mixture(root, seed).values()),
    }
    for seed in SEEDS:
        yield from (run.command for run in wanted[part](seed) if run.folder is None)
