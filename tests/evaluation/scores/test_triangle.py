"""Places of unordered pairs against numpy's own order."""

import numpy as np
import pytest

from evaluation.scores.triangle import block_places, num_unordered_pairs, pair_places, square_rows, unordered_pairs


@pytest.mark.parametrize("num_images", [1, 2, 3, 8])
def test_places_count_the_pairs_in_order(num_images):
    pairs = unordered_pairs(num_images)
    assert len(pairs) == num_unordered_pairs(num_images) and (pairs[:, 0] < pairs[:, 1]).all()
    np.testing.assert_array_equal(pair_places(pairs[:, 0], pairs[:, 1], num_images), np.arange(len(pairs)))


def test_blocks_hold_the_pairs_above_the_diagonal():
    scores, found = np.arange(21), []
    for rows, columns in ((slice(0, 4), slice(0, 4)), (slice(0, 4), slice(4, 7)), (slice(4, 7), slice(4, 7))):
        above, places = block_places(rows, columns, 7)
        assert above.shape == (rows.stop - rows.start, columns.stop - columns.start)
        found += scores[places].tolist()
    assert sorted(found) == scores.tolist()


def test_rows_of_the_square_are_symmetric_and_exclude_the_image_itself(monkeypatch):
    scores = np.random.default_rng(0).normal(size=15).astype(np.float32)
    ((images, square),) = square_rows(scores, np.arange(6), 6)
    np.testing.assert_array_equal(images, np.arange(6))
    assert square.dtype == np.float32 and np.isneginf(square.diagonal()).all()
    np.testing.assert_array_equal(square, square.T)
    np.testing.assert_array_equal(square[np.triu_indices(6, 1)], scores)
    monkeypatch.setattr("evaluation.scores.triangle._SQUARE_CELLS", 13)
    blocks = list(square_rows(scores, np.array([4, 1, 5]), 6))
    assert [images.tolist() for images, _ in blocks] == [[4, 1], [5]]
    np.testing.assert_array_equal(np.concatenate([rows for _, rows in blocks]), square[[4, 1, 5]])
