import numpy as np
import pytest

from datasets import Pairs
from folder_evaluation import PairScores, save_scores


@pytest.mark.parametrize("num_folds", [2, 127, 128, 200, 70_000])
def test_the_numbers_of_folds_and_images_are_saved_as_they_are(tmp_path, num_folds):
    first = np.arange(num_folds)
    pairs = Pairs(first, first + 1, first % 2 == 0, np.arange(num_folds))
    save_scores(tmp_path / "scores.npz", ["a.png"], pairs, PairScores({}, {}))
    with np.load(tmp_path / "scores.npz") as saved:
        for field in ("first", "second", "issame", "folds"):
            np.testing.assert_array_equal(saved[field], getattr(pairs, field))
