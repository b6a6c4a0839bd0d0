"""Drawn people in folders, and models whose weights are random, for tests of answers about photographs."""

import cv2
import numpy as np
from untrained import write_checkpoint

import models
from datasets.synthetic.prepare import render_identities
from evaluation import FusionStatistics

STATISTICS = FusionStatistics(
    mean={"adaface": 0.1, "qaconv": -0.2},
    std={"adaface": 0.3, "qaconv": 0.7},
    weights={"adaface": 0.6, "qaconv": 0.4},
    source="test",
    num_impostors=9,
)


def write_people(folder, num=8, images=2, stream="answers-test"):
    """Write `<folder>/p<person>/<image>.png` of drawn people, and return the folder."""
    crops, labels = render_identities(stream, num, images)
    for place, (crop, label) in enumerate(zip(crops, labels, strict=True)):
        write_face(folder / f"p{label}" / f"{place % images}.png", crop)
    return folder


def write_face(path, crop):
    """Write one face as PNG, and return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.ascontiguousarray(crop[..., ::-1]))
    return path


def write_model(path, **options):
    """Write a checkpoint with matcher, occlusion head and fusion statistics, and return its path."""
    return write_checkpoint(path, statistics=STATISTICS, **options)


def load_model(path, **options):
    """Return the model of such a checkpoint, which is written."""
    return models.load(write_model(path, **options))
