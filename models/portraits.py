"""Photographs of people, described: crops, descriptions with mirror images, quality, and all scores of pairs.

Calibrations, galleries and answers are built on these; a score means the same in all of them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from datasets.progress import tracked
from evaluation import (
    Description,
    FaceDescriptions,
    describe_batches,
    fuse_with,
    score_all_pairs,
    score_pair_list,
)
from evaluation.scores.comparable import Sides, comparable_scores
from evaluation.scores.triangle import num_unordered_pairs, pair_places
from models import pictures
from transforms import to_tensor

if TYPE_CHECKING:
    from models.face_model import FaceModel

Scores = dict[str, NDArray[np.float64]]  # by name, larger = more alike
Crops = NDArray[np.uint8]  # [N, 112, 112, 3] RGB

SCORES = ("fused", "adaface", "qaconv")
FLOAT = "float32"  # form of a model that is not quantized


class People(NamedTuple):
    """Photographs of people, in their order.

    Attributes:
        paths: [N] files.
        labels: int64 [N], the person of each.
        names: of the people.
        labelled: False: nobody says who is who, and every photograph counts as a person.
    """

    paths: Sequence[Path]
    labels: NDArray[np.int64]
    names: Sequence[str]
    labelled: bool


class Portraits(NamedTuple):
    """N faces described together with their mirror images.

    Attributes:
        faces: embeddings and both views.
        norm: float32 [N], mean of the lengths that both embeddings had.
        visible: float32 [N], share of the cells that is visible; None without an occlusion head.
    """

    faces: FaceDescriptions
    norm: Tensor
    visible: Tensor | None


def find_people(folder: str | Path) -> People:
    """Return the photographs in `<folder>/<person>/<image>`, or those of a folder without such folders, unlabelled.

    Raises:
        FileNotFoundError: if there is no such folder. ValueError: if it holds no images.
    """
    from datasets import ImageFolderDataset

    root = Path(folder)
    if root.is_dir() and not any(child.is_dir() for child in root.iterdir()):
        paths = pictures.find_images(root)
        return People(paths, np.arange(len(paths)), [path.name for path in paths], False)
    dataset = ImageFolderDataset(root)
    return People(dataset.paths, dataset.labels, dataset.class_names, True)


def read_crops(paths: Iterable[Path], aligner: pictures.Aligner) -> tuple[Crops, NDArray[np.int64], list[str]]:
    """Return the crops of the photographs that give one, their places int64 [M], and why the others do not."""
    crops, places, failures = [], [], []
    for place, path in enumerate(paths):
        try:
            crops.append(aligner.crop(path))
            places.append(place)
        except ValueError as error:
            failures.append(str(error))
    stacked = np.stack(crops) if crops else np.empty((0, 112, 112, 3), np.uint8)
    return stacked, np.array(places, np.int64), failures


@torch.inference_mode()
def describe_portraits(model: FaceModel, crops: Crops, batch_size: int = 64, bar: str | None = None) -> Portraits:
    """Return the descriptions of crops uint8 [N, 112, 112, 3] RGB, N >= 1; maps in float32, none without a matcher.

    A progress bar is shown where `bar` says what for.
    """
    seen: list[Description] = []

    def describe(images: Tensor) -> Description:
        found = model.describe(images)
        seen.append(found._replace(embedding=found.norm, local_map=found.norm))  # the maps would stay
        return found

    starts = tracked(range(0, len(crops), batch_size), bar or "", hidden=bar is None)
    # A copy, for torch warns of crops that are mapped read-only.
    batches = (to_tensor(torch.tensor(crops[start : start + batch_size], device=model.device)) for start in starts)
    faces = describe_batches(describe, batches, len(crops), map_dtype=None if model.matcher is None else torch.float32)
    norm = torch.cat([(image.norm + mirror.norm) / 2 for image, mirror in zip(seen[::2], seen[1::2], strict=True)])
    shares = [view.visibility.mean((1, 2, 3)) for view in seen[::2] if view.visibility is not None]
    return Portraits(faces, norm[:, 0], torch.cat(shares) if shares else None)


@torch.inference_mode()
def score_listed(
    model: FaceModel, faces: FaceDescriptions, pairs: NDArray[np.int64], others: FaceDescriptions | None = None
) -> Scores:
    """Return every score that the model gives of the listed pairs i < j, float64 [M]; see `evaluation.score_pair_list`.

    Where most pairs of the faces are listed, all are scored: in blocks that takes a quarter of the time.
    """
    others = faces if others is None else others
    members = np.unique(pairs)
    if 2 * len(pairs) < num_unordered_pairs(len(members)):
        match = None if model.matcher is None else model.matcher.match_pairs
        return with_fused(model, score_pair_list(faces, pairs, match, others=others), Sides(faces, others, pairs))
    chosen = torch.from_numpy(members)
    found = score_all_pairs(faces[chosen], model.matcher, others=others[chosen])
    first, second = np.searchsorted(members, pairs).T
    places = pair_places(first, second, len(members))
    listed = {name: values[places] for name, values in found.items()}
    return with_fused(model, listed, Sides(faces, others, pairs))


def with_fused(model: FaceModel, found: Mapping[str, NDArray[np.float32]], sides: Sides) -> Scores:
    """Return scores [M] of the embedding and the matcher in float64 and, where the model can, the fused ones.

    Where the model knows what scores mean at what is visible, all of them are normalized by it.

    Args:
        found: "adaface" and maybe "qaconv", as they come.
        sides: the pairs that they are of.
    Raises:
        ValueError: if a score is not finite.
    """
    scores = {name: np.asarray(values, dtype=np.float64) for name, values in found.items()}
    for name, values in scores.items():
        if not np.isfinite(values).all():
            raise ValueError(f"{name}: scores must be finite; the weights may be damaged.")
    if model.normalization is not None and set(scores) <= set(model.normalization.mean):
        normalized = comparable_scores(found, sides, model.normalization)
        return {{"combined": "fused"}.get(name, name): values.astype(np.float64) for name, values in normalized.items()}
    if model.fusion_statistics is not None and set(model.fusion_statistics.weights) == set(scores):
        scores["fused"] = fuse_with(scores, model.fusion_statistics)
    return scores


def scores_of(model: FaceModel) -> list[str]:
    """Return the names of the scores that a model gives, those of SCORES in their order."""
    found = {"adaface"} if model.matcher is None else {"adaface", "qaconv"}
    statistics = model.normalization or model.fusion_statistics
    if statistics is not None and len(found) == 2 and set(statistics.weights) == found:
        found.add("fused")
    return [name for name in SCORES if name in found]


def choose_score(model: FaceModel, asked: str | None) -> str:
    """Return the score asked for; None: the fused one where the model has it, else the embedding's.

    Raises:
        ValueError: if there is no such score, or the model does not give it.
    """
    known = scores_of(model)
    if asked is None:
        return "fused" if "fused" in known else "adaface"
    if asked not in known:
        missing = "no such score" if asked not in SCORES else "the model lacks a local matcher or fusion statistics"
        raise ValueError(f"score {asked!r}: {missing}; choose from {', '.join(known)}")
    return asked


def weights_checksum(model: FaceModel) -> str:
    """Return the SHA-256 of everything that shapes a model's scores: weights, statistics, and what scores mean."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    for known in (model.fusion_statistics, model.normalization):
        digest.update(json.dumps(None if known is None else known.to_dict(), sort_keys=True).encode())
    if model.form != FLOAT:  # rounded on the way, the same weights give other embeddings
        digest.update(model.form.encode())
    return digest.hexdigest()


def crops_checksum(crops: Crops, labels: ArrayLike) -> str:
    """Return the SHA-256 of crops and of whom they show."""
    digest = hashlib.sha256(np.ascontiguousarray(crops).data)
    digest.update(np.asarray(labels, dtype="<i8").tobytes())
    return digest.hexdigest()


class Origin(NamedTuple):
    """What scores come from: results of one origin are not used with another."""

    model: str  # SHA-256 of the weights
    template: str
    detector: str

    def refuse_other(self, used: Origin, what: str) -> None:
        """Refuse to use what was recorded with other weights or another alignment.

        Args:
            used: of the model and the aligner at hand.
            what: what was recorded, for the error.
        Raises:
            ValueError: one line that says what differs.
        """
        if self.model != used.model:
            raise ValueError(
                f"{what} belongs to other weights ({self.model[:12]}, this model is {used.model[:12]}; quantized and"
                " float weights are two): its scores and thresholds mean nothing here; make it anew with this model"
            )
        for name, recorded, other in zip(self._fields[1:], self[1:], used[1:], strict=True):
            if recorded != other:
                raise ValueError(f"{what} was made with the {name} {recorded!r}, and {other!r} is in use; use the same")


def origin_of(model: FaceModel, aligner: pictures.Aligner) -> Origin:
    """Return what the scores of a model on an aligner's crops come from."""
    return Origin(weights_checksum(model), aligner.template, aligner.detector)
