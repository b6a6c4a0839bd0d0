"""Difficulty without a network: known and estimated resolution, contrast, what is hidden."""

from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
from photographs import faces

from datasets import ImageFolderDataset
from datasets.sampling.difficulty import contrast_difficulty, estimated_side, hidden_share, resolution_difficulty
from datasets.sampling.measured_difficulty import measured_difficulty

UP = {"bicubic": cv2.INTER_CUBIC, "bilinear": cv2.INTER_LINEAR}


def resized(face, side, up=cv2.INTER_CUBIC):
    return cv2.resize(cv2.resize(face, (side, side), interpolation=cv2.INTER_AREA), (112, 112), interpolation=up)


@pytest.mark.parametrize("up", UP)
@pytest.mark.parametrize("side", [16, 32, 64])
def test_the_side_of_an_enlarged_face_is_estimated_to_one_step(side, up):
    for face in faces():
        found = estimated_side(resized(face, side, UP[up]))
        assert min(side, estimated_side(face)) / 1.5 < found < side * 1.5  # a drawn face may hold less itself


def test_a_smaller_side_is_never_estimated_larger_and_contrast_does_not_matter():
    for face in faces():
        found = [estimated_side(resized(face, side)) for side in (10, 16, 24, 32, 48, 64)]
        assert found == sorted(found) and found[0] < found[-1] <= estimated_side(face)
        assert estimated_side((resized(face, 24) // 2 + 60).astype(np.uint8)) in (23, 32)
    assert estimated_side(np.full((112, 112, 3), 7, np.uint8)) == 8
    noise = np.random.default_rng(0).integers(0, 256, (112, 112, 3), dtype=np.uint8)
    assert estimated_side(noise) == 112


def test_a_known_side_counts_in_octaves_below_the_size_of_a_crop():
    np.testing.assert_allclose(resolution_difficulty([7, 28, 56, 112, 400]), [4, 2, 1, 0, 0])
    with pytest.raises(ValueError, match="sides must be above 0 pixels, got 0"):
        resolution_difficulty([16, 0])


def test_contrast_and_what_is_hidden():
    striped = np.zeros((112, 112, 3), np.uint8)
    striped[::2] = 255
    assert contrast_difficulty(striped) == 0 and contrast_difficulty(striped // 5) == pytest.approx(0.4)
    assert contrast_difficulty(np.full_like(striped, 90)) == 0.5
    mask = np.ones((112, 112), np.uint8)
    mask[:28] = 0
    assert hidden_share(mask) == 0.25 and hidden_share(mask.astype(bool)) == 0.25 and hidden_share(mask * 0) == 1


def test_of_several_ranks_one_measures_and_the_others_read_what_it_keeps(tmp_path, monkeypatch):
    (tmp_path / "faces" / "a").mkdir(parents=True)
    for number, contrast in enumerate((90, 5, 40)):
        image = 128 + np.random.default_rng(number).integers(-contrast, contrast, (112, 112, 3))
        cv2.imwrite(str(tmp_path / "faces" / "a" / f"{number}.png"), image.astype(np.uint8))
    read, decoded = ImageFolderDataset.read, []

    def counted(self, index):
        decoded.append(index)
        return read(self, index)

    monkeypatch.setattr(ImageFolderDataset, "read", counted)
    dataset = ImageFolderDataset(tmp_path / "faces")
    with ThreadPoolExecutor(3) as ranks:
        found = list(ranks.map(lambda _: measured_difficulty(dataset, "contrast", 1, tmp_path / "cache"), range(3)))
    assert sorted(decoded) == [0, 1, 2] and found[0].argsort().tolist() == [0, 2, 1]
    assert all(np.array_equal(one, found[0]) for one in found)
