"""Keys of caches: equal transforms share them, in other processes too, and other transforms do not."""

import subprocess
import sys
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest

from datasets import ImageFolderDataset, RecordDataset, cache_benchmark, write_faces
from datasets.content_key import content_key

ROOT = Path(__file__).resolve().parents[2]


class Brighter:
    def __init__(self, amount):
        self.amount = amount

    def __call__(self, image):
        return image + np.uint8(self.amount)


def darker(amount):
    return lambda image: image - np.uint8(amount)


def shifted(image, by=1):
    return np.roll(image, by, axis=1)


@pytest.mark.parametrize("make", [Brighter, darker, lambda by: partial(shifted, by=by)])
def test_two_equal_transforms_have_one_key_and_another_has_another(make):
    assert content_key(make(3)) == content_key(make(3)) != content_key(make(4))


def test_the_code_of_a_function_and_of_a_method_counts():
    assert content_key(lambda image: image + 1) == content_key(lambda image: image + 1)
    assert content_key(lambda image: image + 1) != content_key(lambda image: image + 2)
    assert content_key(lambda image: image.min()) != content_key(lambda image: image.max())
    other = type("Brighter", (), {**vars(Brighter), "__call__": lambda self, image: image - np.uint8(self.amount)})
    other.__module__, other.__qualname__ = __name__, "Brighter"
    given = other(3)
    assert content_key(given) != content_key(Brighter(3))


def test_what_cannot_be_written_down_is_never_found_again():
    class Holding:
        def __init__(self):
            self.stream = Path(__file__).open()  # closed below

        def __call__(self, image):
            return image

    holding = Holding()
    assert content_key(holding) != content_key(holding)
    holding.stream.close()


def test_another_process_finds_the_same_key():
    code = "from datasets.content_key import content_key; print(content_key([lambda image: image + 1, {'by': 3}]))"
    keys = {
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True).stdout for _ in "ab"
    }
    assert len(keys) == 1


@pytest.fixture
def faces(tmp_path):
    rng = np.random.default_rng(0)
    for number in range(24):
        path = tmp_path / "faces" / f"p{number // 4}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), rng.integers(0, 256, (112, 112, 3), dtype=np.uint8))
    return tmp_path / "faces"


def test_a_cached_benchmark_is_found_again_with_an_equal_transform(faces, tmp_path):
    for amount in (3, 3, 4):
        cache_benchmark(ImageFolderDataset(faces, Brighter(amount)), name="own", cache=tmp_path / "cache")
    assert len(list((tmp_path / "cache" / "benchmarks").iterdir())) == 2


def test_records_and_folders_name_equal_transforms_alike(faces, tmp_path):
    folder = ImageFolderDataset(faces)
    (tmp_path / "records").mkdir()
    write_faces(tmp_path / "records", (path.read_bytes() for path in folder.paths), folder.labels)
    for open_set in (partial(ImageFolderDataset, faces), partial(RecordDataset, tmp_path / "records")):
        assert open_set(Brighter(3)).decoding == open_set(Brighter(3)).decoding != open_set(Brighter(4)).decoding
        assert open_set().decoding.endswith("swap_color_channel=False transform=None")  # keys of before stay
