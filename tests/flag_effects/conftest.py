"""Data of noise, and a place of its own for each test."""

import cv2
import numpy as np
import pytest
from observed import NUM_IMAGES, NUM_PEOPLE

from datasets import Benchmark, save_benchmark


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    """Folder with people of noise in `train` and the benchmark `lfw`, and others in `elsewhere`."""
    root = tmp_path_factory.mktemp("flag_faces")
    rng = np.random.default_rng(0)
    for folder, num_people in (("train", NUM_PEOPLE), ("elsewhere/people", 4)):
        for person in range(num_people):
            (root / folder / f"{person}").mkdir(parents=True)
            for number in range(NUM_IMAGES):
                image = rng.integers(0, 256, (14, 14, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
                cv2.imwrite(str(root / folder / f"{person}" / f"{number}.png"), image)
    images = rng.integers(0, 256, (24, 112, 112, 3), dtype=np.uint8)
    issame = np.arange(12) % 2 == 0
    save_benchmark(Benchmark(images, issame, "lfw"), root)
    save_benchmark(Benchmark(images, issame, "calfw"), root / "elsewhere" / "sets")
    return root


@pytest.fixture(autouse=True)
def apart(tmp_path, monkeypatch):
    """Keep caches, run folders and log handlers of a test to itself."""
    monkeypatch.setenv("MASKWISE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
