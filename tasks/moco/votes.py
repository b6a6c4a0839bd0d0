"""How often the nearest images of a labeled set name the person: what a validation reports beside its verification."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from datasets import Benchmark, PairSample
from evaluation.representation.knn import knn_vote
from evaluation.representation.people import split_images
from ops import gather_objects

MEAN = "val_knn_acc"
TEST_SHARE = 0.2  # of a person's images, as in `probe`


class LabeledSet:
    """The images of a benchmark set whose people are known, each image once, divided as `probe` does it.

    Args:
        benchmark: with identities; most sets show an image in several pairs, and would find it beside itself.
    Attributes:
        places: int64 [N], where each image is among the set's 2 x pairs.
        labels: int64 [N], its person.
        train, test: places in these two of the images that vote, and of those that are asked.
    """

    def __init__(self, benchmark: Benchmark) -> None:
        assert benchmark.identities is not None
        digests = [hashlib.blake2b(image.tobytes(), digest_size=16).digest() for image in benchmark.images]
        self.places = np.unique(np.array(digests, dtype="S16"), return_index=True)[1]
        self.places.sort()
        self.labels = np.unique(benchmark.identities[self.places], return_inverse=True)[1].astype(np.int64)
        self.train, self.test = split_images(self.labels, TEST_SHARE, seed=0)

    def accuracy(self, embeddings: NDArray[np.floating]) -> float:
        """Return the share of the images asked whose person the others name.

        Args:
            embeddings: [2 x pairs, D] of unit length, in the set's order.
        """
        vectors = embeddings[self.places]
        found = knn_vote(vectors[self.test], vectors[self.train], self.labels[self.train])
        return float((found.predicted == self.labels[self.test]).mean())


class SetVotes:
    """Collect the embeddings of a pass over all pairs, and let the nearest images of each set name the people.

    Args:
        benchmarks: sets; those that do not know their people, or no two images of one, are passed over.
    """

    def __init__(self, benchmarks: Sequence[Benchmark]) -> None:
        known = {b.name: (place, LabeledSet(b)) for place, b in enumerate(benchmarks) if b.identities is not None}
        self._sets = {name: found for name, found in known.items() if len(found[1].test)}
        self._batches: list[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float16]]] = []

    def names(self) -> list[str]:
        """Return what `accuracies` will call its metrics."""
        return [MEAN, *(f"{name}_knn_acc" for name in self._sets)] if self._sets else []

    def clear(self) -> None:
        """Forget the embeddings collected so far."""
        self._batches = []

    def add(self, batch: PairSample, embeddings: Tensor) -> None:
        """Keep the unit embeddings [2 B, D] of a batch of B pairs."""
        if self._sets:
            pairs = embeddings.half().unflatten(0, (-1, 2)).cpu().numpy()
            self._batches.append((batch.benchmark.cpu().numpy(), batch.index.cpu().numpy(), pairs))

    def accuracies(self) -> dict[str, float]:
        """Return the accuracy of each set, and their mean; all ranks must ask together."""
        batches = [batch for rank in gather_objects(self._batches) for batch in rank] if self._sets else []
        found = dict[str, float]()
        for name, (number, labeled) in self._sets.items():
            chosen = [(index[of == number], pairs[of == number]) for of, index, pairs in batches]
            order = np.argsort(np.concatenate([index for index, _ in chosen]))
            pairs = np.concatenate([pairs for _, pairs in chosen])[order]
            found[f"{name}_knn_acc"] = labeled.accuracy(pairs.reshape(-1, pairs.shape[-1]))
        return {**found, MEAN: float(np.mean([*found.values()]))} if found else {}
