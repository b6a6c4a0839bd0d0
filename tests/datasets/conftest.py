"""Small image folders for the readers."""

import cv2
import numpy as np
import pytest


def write_image(path, color_rgb=(200, 30, 60), size=(112, 112), seed=None):
    """Write a one-color image, or noise with a seed; the path's suffix decides the format."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = np.full((*size, 3), color_rgb, np.uint8)
    if seed is not None:
        image = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    bgr = image[..., ::-1]
    ok, encoded = cv2.imencode(path.suffix, bgr[..., 0] if path.suffix == ".pgm" else bgr)
    assert ok
    path.write_bytes(encoded.tobytes())
    return image


@pytest.fixture(name="write_image")
def write_image_fixture():
    return write_image


@pytest.fixture
def make_folder(tmp_path):
    """Return a function: images per identity -> root of a folder with noise images."""

    def make(counts, root=tmp_path / "faces"):
        for identity, count in enumerate(counts):
            for number in range(count):
                write_image(root / f"id{identity:02d}" / f"{number}.png", size=(8, 8), seed=100 * identity + number)
        return root

    return make
