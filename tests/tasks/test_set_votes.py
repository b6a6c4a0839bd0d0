"""Nearest images of a labeled set name its people: each image once, whatever batch or rank it came in."""

import numpy as np
import torch

from datasets import Benchmark, PairSample
from evaluation.representation.people import split_images
from tasks.moco.votes import MEAN, SetVotes


def sets():
    """Return a set of 12 people whose images are shown twice, one whose people are not known, and their embeddings."""
    rng = np.random.default_rng(0)
    people = np.repeat(np.arange(12), 4)
    images = rng.integers(0, 256, (48, 112, 112, 3), dtype=np.uint8)
    centers = rng.normal(size=(12, 8))
    vectors = centers[people] + rng.normal(size=(48, 8))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    shown = rng.permutation(np.repeat(np.arange(48), 2))
    issame = people[shown[::2]] == people[shown[1::2]]
    known = Benchmark(images[shown], issame, "known", identities=people[shown] + 7)
    return [Benchmark(images, np.arange(24) % 2 == 0, "unknown"), known], vectors, shown, people


def test_the_accuracy_is_that_of_a_vote_among_different_images():
    benchmarks, vectors, shown, people = sets()
    votes = SetVotes(benchmarks)
    assert votes.names() == [MEAN, "known_knn_acc"] and not SetVotes(benchmarks[:1]).names()
    votes.add(PairSample(None, torch.zeros(2).long(), torch.arange(2)), torch.ones(4, 8))
    for index in torch.randperm(48, generator=torch.Generator().manual_seed(1)).split(10):  # in any order
        pairs = vectors[shown.reshape(-1, 2)[index]].reshape(-1, 8)
        votes.add(PairSample(None, torch.ones(len(index)).long(), index), torch.from_numpy(pairs))
    found = votes.accuracies()

    seen = np.array([*dict.fromkeys(shown.tolist())])  # each image where it first comes
    train, test = split_images(people[seen], 0.2, seed=0)
    rounded = vectors.astype(np.float16).astype(np.float64)[seen]
    right = []
    for place in test:
        weights = np.exp(rounded[train] @ rounded[place] / 0.07)
        scores = np.bincount(people[seen][train], weights=weights)
        right.append(scores.argmax() == people[seen][place])
    assert found == {MEAN: np.mean(right), "known_knn_acc": np.mean(right)} and 0.2 < np.mean(right) < 1
    votes.clear()
    assert SetVotes(()).accuracies() == {}


def test_a_set_without_two_images_of_anybody_is_passed_over():
    images = np.zeros((4, 112, 112, 3), np.uint8)
    images[:, 0, 0, 0] = [0, 0, 1, 2]  # the first pair shows one image twice
    benchmark = Benchmark(images, np.array([True, False]), "few", identities=np.array([0, 0, 1, 2]))
    assert SetVotes([benchmark]).names() == []
