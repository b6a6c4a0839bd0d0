"""The protocol of the ablation: people never trained on, every pair of their images, clean and behind occluders."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

import transforms
from benchmarks.ablation.variants import SEEN, UNSEEN, Run
from cli.checkpoints import load_pretrained_model
from datasets.synthetic.prepare import render_identities
from evaluation import (
    FLIP_FUSION,
    FaceDescriptions,
    FlipFusion,
    describe_batches,
    score_all_pairs,
    unordered_pairs,
)
from system.files import atomic_write
from train_val import Recognizer

CONDITIONS = {"clean": (), "seen": SEEN, "unseen": UNSEEN}
FUSED_MAPS = "dev-fused-maps"  # image and mirror image fused into one map, which evaluation does not do
IMAGES_PER_PERSON = 6
BATCH_SIZE = 64

Images = NDArray[np.uint8]


@dataclass(frozen=True)
class People:
    """Images of a group of people, as they are and with an occluder.

    Attributes:
        labels: int64 [N].
        images: by condition, uint8 [N, 112, 112, 3] RGB.
    """

    labels: NDArray[np.int64]
    images: dict[str, Images]

    @property
    def pair_identities(self) -> NDArray[np.int64]:
        """People int64 [N * (N - 1) / 2, 2] of every unordered pair of images."""
        return self.labels[unordered_pairs(len(self.labels))]


def render_people(group: str, num: int) -> People:
    """Draw a group, "dev" to choose on or "test" to claim on; its occluders follow the image's place alone."""
    images, labels = render_identities(f"ablation-{group}", num, IMAGES_PER_PERSON)
    occluded = {name: _occlude(images, occluders) for name, occluders in CONDITIONS.items()}
    return People(labels, occluded)


def _occlude(images: Images, occluders: tuple[str, ...]) -> Images:
    if not occluders:
        return images
    generators = (np.random.default_rng([len(occluders), place]) for place in range(len(images)))
    views = [transforms.occlude(image, rng, occluders) for image, rng in zip(images, generators, strict=True)]
    return np.stack([view.image for view in views])


def score_people(
    checkpoint: Path, people: People, flip_fusion: FlipFusion = FLIP_FUSION
) -> dict[str, NDArray[np.float32]]:
    """Return the scores of every pair i < j, "<condition>/<matcher>" -> float32 [N * (N - 1) / 2].

    Image i is clean, image j as the condition says. Precision is that of the training: bf16.
    """
    model = load_pretrained_model(checkpoint)
    scores = {}
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        clean = _describe(model, people.images["clean"], flip_fusion)
        for condition, images in people.images.items():
            others = clean if condition == "clean" else _describe(model, images, flip_fusion)
            for matcher, values in score_all_pairs(clean, model.matcher, others=others).items():
                scores[f"{condition}/{matcher}"] = values
    return scores


class ScoredRuns:
    """The scores of finished runs, kept beside their checkpoints as `ablation_<what>_<people>.npz`."""

    def __init__(self, root: Path, num_people: int) -> None:
        self._root, self._num_people = root, num_people
        self._people: dict[str, People] = {}

    def __call__(self, variant: str, seed: int, what: str) -> dict[str, NDArray[np.float32]]:
        """Return the scores of a run on a group of people, or by FUSED_MAPS; scored where it is newer than they are."""
        folder = Run(self._root, variant, seed).folder
        assert folder is not None, f"{variant}, seed {seed}: no finished run"
        path, checkpoint = folder / f"ablation_{what}_{self._num_people}.npz", folder / "last.ckpt"
        if not path.exists() or (checkpoint.exists() and checkpoint.stat().st_mtime_ns > path.stat().st_mtime_ns):
            group = what.removesuffix("-fused-maps")
            fusion: FlipFusion = FLIP_FUSION if what == group else "map"
            if group not in self._people:
                self._people[group] = render_people(group, self._num_people)
            scores = score_people(checkpoint, self._people[group], fusion)
            with atomic_write(path, "wb") as stream:
                np.savez(stream, **scores)  # type: ignore[arg-type]
        with np.load(path) as saved:
            return dict(saved)


def _describe(model: Recognizer, images: Images, flip_fusion: FlipFusion) -> FaceDescriptions:
    def batches() -> Iterator[torch.Tensor]:
        for start in range(0, len(images), BATCH_SIZE):
            yield transforms.to_tensor(torch.from_numpy(images[start : start + BATCH_SIZE]))

    return describe_batches(model.describe, batches(), len(images), flip_fusion)
