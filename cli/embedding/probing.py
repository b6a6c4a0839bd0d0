"""What the program `probe` does once its options are known."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from datasets.counted import counted
from datasets.progress import tracked
from evaluation.protocols.bootstrap import Draws, Interval, summarize
from evaluation.representation.knn import knn_vote
from evaluation.representation.linear import ProbeSettings, linear_probe
from evaluation.representation.people import accuracy_draws, accuracy_over_people, split_images
from models.embedding.folder import Embeddings, read_embeddings
from options.embedding import ProbeOptions
from system.files import write_text

_QUERIES = 1024  # of which the scores of all people are held at a time


def probe(folders: Sequence[Path], options: ProbeOptions) -> str:
    """Return the figures of each folder as text, and write them where the options say.

    Raises:
        ValueError, OSError: one line that names the folder.
    """
    opened = [read_embeddings(folder) for folder in folders]
    for found in opened:
        _check(found)
    answers = [_answers(found, options) for found in opened]
    lines, figures = [], []
    for number, (found, right) in enumerate(zip(opened, answers, strict=True)):
        lines.append(f"{found.folder}: {right.describe()}")
        entry: dict[str, object] = {"folder": str(found.folder), "weights_sha256": found.facts["weights_sha256"]}
        for name, interval in right.intervals(options).items():
            lines.append(f"  {name:<7} {_text(interval)}")
            entry[name] = interval._asdict()
        if number and right.same_images(answers[0]):
            for name, interval in right.differences(answers[0], options).items():
                lines.append(f"  {name:<7} minus the first: {_text(interval)}")
                entry[f"{name} minus the first"] = interval._asdict()
        figures.append(entry)
    if options.output is not None:
        content = {"options": options.to_dict(), "results": figures}
        write_text(Path(options.output), json.dumps(content, indent=1) + "\n")
    return "\n".join(lines)


def _text(interval: Interval) -> str:
    low, high = 100 * interval.lower, 100 * interval.upper
    return f"{100 * interval.estimate:6.2f} % [{low:.2f}, {high:.2f}]"


def _check(found: Embeddings) -> None:
    """Refuse embeddings that cannot be probed."""
    if found.labels is None:
        raise ValueError(f"{found.folder}: nobody says who is who; embed a folder of people, records or arrays")
    people, counts = np.unique(found.labels, return_counts=True)
    if len(people) < 2 or not (counts > 1).any():
        raise ValueError(
            f"{found.folder}: {len(people)} people, {int((counts > 1).sum())} of them with two or more images; two "
            "people are needed, and one with two images"
        )


class _Answers(NamedTuple):
    """Which test images of a folder were given their person."""

    images: tuple[object, ...]  # what tells which these are
    test: NDArray[np.int64]
    num_train: int
    people: NDArray[np.int64]  # of the test images
    right: dict[str, NDArray[np.bool_]]  # by way

    def describe(self) -> str:
        """Return how the images were divided."""
        num = len(np.unique(self.people))
        return f"{len(self.test)} images of {counted(num, 'identity')} test, {self.num_train} train"

    def same_images(self, other: _Answers) -> bool:
        """Return whether both are of the same images."""
        return self.images == other.images and np.array_equal(self.test, other.test)

    def intervals(self, options: ProbeOptions) -> dict[str, Interval]:
        """Return the accuracy of each way."""
        return {
            name: accuracy_over_people(right, self.people, options.draws, options.seed)
            for name, right in self.right.items()
        }

    def differences(self, first: _Answers, options: ProbeOptions) -> dict[str, Interval]:
        """Return how much more often it is right than the first, by the same draws of people."""
        found = {}
        for name, right in self.right.items():
            own = accuracy_draws(right, self.people, options.draws, options.seed)
            other = accuracy_draws(first.right[name], self.people, options.draws, options.seed)
            found[name] = summarize(Draws(own.estimate - other.estimate, own.values - other.values))
        return found


def _answers(found: Embeddings, options: ProbeOptions) -> _Answers:
    assert found.labels is not None
    labels = np.unique(found.labels, return_inverse=True)[1]
    train, test = split_images(labels, options.test_share, options.seed)
    vectors = np.asarray(found.embeddings, np.float32)
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)  # float16 rounds
    if not np.isfinite(vectors).all():
        raise ValueError(f"{found.folder}: an embedding is not finite")
    starts = tracked(range(0, len(test), _QUERIES), "Asking neighbors")
    votes = [
        knn_vote(vectors[test[at : at + _QUERIES]], vectors[train], labels[train], options.k, options.temperature)
        for at in starts
    ]
    settings = ProbeSettings(
        options.lr, options.weight_decay, options.epochs, options.milestones, options.batch_size, options.seed
    )
    told = linear_probe(vectors[train], labels[train], vectors[test], settings, tracked)
    voted = np.concatenate([vote.predicted for vote in votes])
    truth = labels[test]
    images = (found.facts.get("images_sha256"), len(found), labels.tobytes())
    return _Answers(images, test, len(train), truth, {"linear": told == truth, "k-NN": voted == truth})
