"""Drawn people on whom a recognizer is tried, and what follows from the cosines between their images."""

from __future__ import annotations

from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from datasets.synthetic.prepare import render_identities
from evaluation import Interval, Resampling, auc, auc_interval, auc_measure, paired_bootstrap
from models.checking.verdict import Verdict, failed, passed, skipped
from models.face_model import FaceModel
from transforms import OCCLUDER_FAMILIES, occlude_all, to_tensor

STREAM = "model-check"  # of people who are in no training set
IMAGES = 3  # of a person
MANY, FEW = 32, 16  # people for a small net, for a large one
LARGE = 10_000_000  # parameters
_BATCH = 16
_RESAMPLES = 1000
_SEED = 0  # of the masks


class Faces:
    """Images of drawn people, the same in every check of every model; rendered when they are first asked for."""

    @cached_property
    def _pixels(self) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        return render_identities(STREAM, MANY, IMAGES)

    @cached_property
    def _rendered(self) -> tuple[Tensor, NDArray[np.int64]]:
        pixels, labels = self._pixels
        return to_tensor(torch.from_numpy(pixels)), labels

    @cached_property
    def masked(self) -> tuple[Tensor, Tensor]:
        """The first image of each person behind a drawn mask, and of each pixel whether it shows, [N, 1, 112, 112]."""
        pixels = self._pixels[0][::IMAGES]
        draws = (np.random.default_rng([_SEED, place]) for place in range(len(pixels)))
        hidden, visible = occlude_all(pixels, draws, OCCLUDER_FAMILIES["mask"])
        return to_tensor(torch.from_numpy(hidden)), torch.from_numpy(visible[:, None]).float()

    @property
    def images(self) -> Tensor:
        """[96, 3, 112, 112] float32 in [-1, 1], RGB, in blocks of a person."""
        return self._rendered[0]

    def shown_to(self, model: FaceModel) -> tuple[Tensor, NDArray[np.int64]]:
        """Return the images that a model is shown, and the person of each: fewer for a large one."""
        is_large = sum(parameter.numel() for parameter in model.model.parameters()) > LARGE
        num = IMAGES * (FEW if is_large else MANY)
        return self.images[:num], self._rendered[1][:num]


class Pairs(NamedTuple):
    """All pairs of N images: places int64 [M, 2] with i < j, bool [M] one person, and how to resample people."""

    places: NDArray[np.int64]
    issame: NDArray[np.bool_]
    over_people: Resampling

    @classmethod
    def of(cls, labels: NDArray[np.int64]) -> Pairs:
        """Return the pairs of images that show the people `labels` [N]."""
        places = np.stack(np.triu_indices(len(labels), 1), axis=1)
        people = labels[places]
        return cls(places, people[:, 0] == people[:, 1], Resampling(people, _RESAMPLES))

    def cosines(self, embeddings: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the cosines [M] of unit embeddings [N, D]."""
        first, second = self.places.T
        return (embeddings[first] * embeddings[second]).sum(1)

    def auc(self, embeddings: NDArray[np.float32]) -> Interval:
        """Return the area under the curve, persons against strangers, with the interval over people."""
        return auc_interval(self.cosines(embeddings), self.issame, self.over_people)

    def plain_auc(self, embeddings: NDArray[np.float32]) -> float:
        """Return the area alone."""
        return auc(self.cosines(embeddings), self.issame)

    def gain(self, embeddings: NDArray[np.float32], over: NDArray[np.float32]) -> Interval:
        """Return the area of one set of embeddings minus that of another, with the paired interval."""
        return paired_bootstrap(
            self.cosines(embeddings), self.cosines(over), self.issame, auc_measure(), self.over_people
        )


def by_area(area: float, limits: tuple[float, float], words: str) -> Verdict:
    """Return what an area under the curve says: below the first limit a failure, from the second on nothing wrong."""
    if not area >= limits[0]:
        return failed(f"{words}: at least {limits[0]} expected")
    return passed(words) if area >= limits[1] else skipped(f"it cannot be told from drawn faces: {words}")


def embed(model: FaceModel, images: Tensor) -> NDArray[np.float32]:
    """Return the unit embeddings [N, D] of images [N, 3, 112, 112]."""
    return np.concatenate([model.describe(part).embedding.cpu().numpy() for part in images.split(_BATCH)])
