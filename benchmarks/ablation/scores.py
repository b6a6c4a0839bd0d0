"""The protocol of the ablation: people never trained on, pairs of their images, clean and behind occluders.

Within blocks of 40 people every image is compared with every other: in "one" the first image of a pair is clean and the
second occluded, in "both" both are. What is saved of a pair is raw: the cosine, the matcher's score without a map, with
the predicted and with the true one, and the visible shares by the prediction and in truth.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import transforms
from benchmarks.ablation.variants import SEEN, UNSEEN, Run
from cli.checkpoints import load_pretrained_model
from datasets.synthetic.prepare import render_identities
from evaluation import FaceDescriptions, LocalView, describe_batches, score_all_pairs, shares_of, unordered_pairs
from system.files import atomic_write
from train_val import Recognizer

CONDITIONS = {"clean": (), "one": SEEN, "both": SEEN, "one, unseen": UNSEEN, "both, unseen": UNSEEN}
IMAGES_PER_PERSON, BLOCK_PEOPLE, BATCH_SIZE = 4, 40, 64
MAPS = ("none", "predicted", "true")

Columns = dict[str, NDArray[np.float32]]  # "<condition>/<draw>/<column>" -> [N]


@dataclass(frozen=True)
class Faces:
    """Images of people and what of them is visible.

    Attributes:
        images: uint8 [N, 112, 112, 3] RGB, people in blocks of 4 images.
        visibility: uint8 [N, 112, 112], 1 = visible.
    """

    images: NDArray[np.uint8]
    visibility: NDArray[np.uint8]


def render_people(group: str, num: int) -> Faces:
    """Draw a group, "dev" to fit on or "test" to claim on."""
    images, _ = render_identities(f"ablation-{group}", num, IMAGES_PER_PERSON)
    return Faces(images, np.ones(images.shape[:3], np.uint8))


def hide(faces: Faces, occluders: tuple[str, ...], draw: int) -> Faces:
    """Return the faces behind an occluder each, which follows the image's place and the draw alone."""
    generators = (np.random.default_rng([len(occluders), draw, place]) for place in range(len(faces.images)))
    return Faces(*transforms.occlude_all(faces.images, generators, occluders))


def pair_people(num_people: int) -> NDArray[np.int64]:
    """Return the people int64 [N, 2] of all pairs, block by block."""
    blocks = [range(start, min(start + BLOCK_PEOPLE, num_people)) for start in range(0, num_people, BLOCK_PEOPLE)]
    labels = [np.repeat(np.array(block), IMAGES_PER_PERSON) for block in blocks]
    return np.concatenate([block[unordered_pairs(len(block))] for block in labels])


def score_people(checkpoint: Path, faces: Faces, num_draws: int) -> Columns:
    """Return the raw columns of every pair under every condition; precision is that of the training, bf16."""
    model = load_pretrained_model(checkpoint)
    columns: Columns = {}
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        clean = Described(model, faces)
        columns |= _score(model, "clean/0", clean, clean)
        for draw in range(num_draws):
            for suffix, occluders in (("", SEEN), (", unseen", UNSEEN)):
                hidden = Described(model, hide(faces, occluders, draw))
                columns |= _score(model, f"one{suffix}/{draw}", clean, hidden)
                columns |= _score(model, f"both{suffix}/{draw}", hidden, hidden)
    learned = None if model.normalization is None else model.normalization.to_dict()
    return {"normalization": np.array(json.dumps(learned)), **columns}


class Described:
    """Faces as a model describes them, with each kind of map."""

    def __init__(self, model: Recognizer, faces: Faces) -> None:
        def batches() -> Iterator[Tensor]:
            for start in range(0, len(faces.images), BATCH_SIZE):
                yield transforms.to_tensor(torch.from_numpy(faces.images[start : start + BATCH_SIZE]))

        predicted = describe_batches(model.describe, batches(), len(faces.images))
        truth = transforms.visibility_map(torch.from_numpy(faces.visibility), *predicted.views[0].local_map.shape[-2:])
        self.by_map = {
            "none": _seen_as(predicted, (None, None)),
            "predicted": predicted,
            "true": _seen_as(predicted, (truth, truth.flip(-1))),
        }


def _seen_as(faces: FaceDescriptions, maps: tuple[Tensor | None, Tensor | None]) -> FaceDescriptions:
    views = (LocalView(view.local_map, seen) for view, seen in zip(faces.views, maps, strict=True))
    return replace(faces, views=tuple(views))


def _score(model: Recognizer, name: str, first: Described, second: Described) -> Columns:
    size = BLOCK_PEOPLE * IMAGES_PER_PERSON
    blocks = [slice(start, start + size) for start in range(0, first.by_map["none"].num_images, size)]
    parts = [
        _score_block(model, {k: (first.by_map[k][block], second.by_map[k][block]) for k in MAPS}) for block in blocks
    ]
    return {f"{name}/{column}": np.concatenate([part[column] for part in parts]) for column in parts[0]}


def _score_block(model: Recognizer, sides: dict[str, tuple[FaceDescriptions, FaceDescriptions]]) -> Columns:
    found: Columns = {}
    for kind, (first, second) in sides.items():
        others = None if first is second else second
        scores = score_all_pairs(first, model.matcher, others=others)
        found["adaface"] = scores["adaface"]
        if "qaconv" in scores:
            found[f"qaconv {kind}"] = scores["qaconv"]
        if chunks := shares_of(first, second):
            parts = [np.stack(shares) for _, shares in chunks]
            found[f"shares {kind}"] = np.concatenate(parts, axis=1).T.astype(np.float32)
    return found


class ScoredRuns:
    """The scores of finished runs, kept beside their checkpoints as `ablation_<group>_<people>.npz`."""

    def __init__(self, root: Path, num_people: dict[str, int], num_draws: int) -> None:
        self._root, self.num_people, self._num_draws = root, num_people, num_draws
        self._faces: dict[str, Faces] = {}

    def __call__(self, variant: str, seed: int, group: str) -> Columns:
        """Return the columns of a run on a group of people; scored where the checkpoint is newer than they are."""
        folder = Run(self._root, variant, seed).folder
        assert folder is not None, f"{variant}, seed {seed}: no finished run"
        draws = self._num_draws if group == "test" else 1  # the fit needs no spread between draws
        path = folder / f"ablation_{group}_{self.num_people[group]}_{draws}.npz"
        checkpoint = folder / "last.ckpt"
        if not path.exists() or (checkpoint.exists() and checkpoint.stat().st_mtime_ns > path.stat().st_mtime_ns):
            if group not in self._faces:
                self._faces[group] = render_people(group, self.num_people[group])
            columns = score_people(checkpoint, self._faces[group], draws)
            with atomic_write(path, "wb") as stream:
                np.savez(stream, **columns)  # type: ignore[arg-type]
        with np.load(path) as saved:
            return dict(saved)
