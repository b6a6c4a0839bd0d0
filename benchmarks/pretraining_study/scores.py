"""Scores of the embedded benchmark sets, whose people no training has seen, by encoders and by pixels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

import models
import nets
import transforms
from benchmarks.studies.kept import kept_beside
from cli.pairs.image_sets import ImageSet, from_benchmark
from datasets.benchmarks.sets import open_sets
from datasets.progress import tracked
from datasets.synthetic.prepare import NUM_FOLDS, prepare_synthetic
from evaluation import FaceDescriptions, describe_batches
from evaluation.scores.images import Scoring, score_images

Scores = dict[str, NDArray[np.float32]]  # by set, [N]
Describe = Callable[[NDArray[np.uint8]], FaceDescriptions]
_BATCH_SIZE = 100
MEAN_COLOR, PIXELS = "mean color", "16 x 16 pixels"


def open_people(num_folds: int = NUM_FOLDS) -> list[ImageSet]:
    """Return the five embedded sets, or the first folds of each, which share no person with the others."""
    sources = []
    for benchmark in open_sets(prepare_synthetic()):
        assert benchmark.folds is not None and benchmark.identities is not None
        num = int((benchmark.folds < num_folds).sum())  # folds follow one another
        sources.append(
            from_benchmark(
                replace(
                    benchmark,
                    images=benchmark.images[: 2 * num],
                    issame=benchmark.issame[:num],
                    folds=benchmark.folds[:num],
                    identities=benchmark.identities[: 2 * num],
                )
            )
        )
    return sources


def score(describe: Describe, sources: Sequence[ImageSet]) -> Scores:
    """Return the cosine of every pair, as an evaluation of the embedding has it."""
    return {source.name: score_images(source, describe, Scoring()).scores["clean"]["adaface"] for source in sources}


def encoder_scores(checkpoint: Path, sources: Sequence[ImageSet]) -> Scores:
    """Return the scores by the embedding of a checkpoint; they are kept beside it for as long as it stays the same."""
    return kept_beside(
        checkpoint,
        f"scores_{len(sources[0].issame)}.npz",
        lambda: score(partial(_describe, models.load(checkpoint)), sources),
    )


def untrained_scores(checkpoint: Path, sources: Sequence[ImageSet], seed: int) -> Scores:
    """Return the scores by a network of the checkpoint's form with random weights."""
    model = models.load(checkpoint)
    torch.manual_seed(seed)
    model.model.load_state_dict(nets.build_model(model.arch, model.model.embedding_size).state_dict())
    return score(partial(_describe, model), sources)


def _describe(model: models.FaceModel, images: NDArray[np.uint8]) -> FaceDescriptions:
    starts = tracked(range(0, len(images), _BATCH_SIZE), "describing images", transient=True)
    batches = (transforms.to_tensor(torch.from_numpy(np.array(images[at : at + _BATCH_SIZE]))) for at in starts)
    return describe_batches(model.describe, batches, len(images), map_dtype=None)


def pixel_scores(sources: Sequence[ImageSet]) -> dict[str, Scores]:
    """Return the scores of what needs no network: the mean color, and small images."""
    return {
        name: score(partial(_describe_pixels, side=side), sources) for name, side in ((MEAN_COLOR, 1), (PIXELS, 16))
    }


def _describe_pixels(images: NDArray[np.uint8], side: int) -> FaceDescriptions:
    """Return the images shrunk, as differences from their mean: without that all cosines are near 1."""
    small = np.stack([cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA) for image in images])
    values = torch.from_numpy(small.reshape(len(images), -1)).float()
    return FaceDescriptions(functional.normalize(values - values.mean(0)), ())
