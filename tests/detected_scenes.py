"""Faces and detections of images, for tests of several files."""

import numpy as np

from evaluation import Found, Truth


def scenes(seed, num_images=12):
    """Return faces and detections of images whose scores tie; some faces are ignored."""
    rng = np.random.default_rng(seed)
    truths, found = [], []
    for _ in range(num_images):
        number = rng.integers(0, 6)
        sides = np.exp(rng.uniform(np.log(8), np.log(200), (number, 2))).round()
        corners = rng.integers(0, 400, (number, 2)).astype(float)
        boxes = np.concatenate([corners, corners + sides], axis=1)
        truths.append(Truth(boxes, rng.random(number) < 0.2))
        chosen = rng.integers(0, number, rng.integers(0, 15)) if number else np.zeros(0, int)
        moved = (boxes[chosen] + rng.normal(0, 0.12, (len(chosen), 4)) * sides[chosen][:, [0, 1, 0, 1]]).round(2)
        moved[:, 2:] = np.maximum(moved[:, 2:], moved[:, :2] + 1)
        found.append(Found(moved, rng.random(len(chosen)).round(1)))
    return truths, found
