"""Folds of pairs whose protocol states none: contiguous where they hold both kinds, else stratified."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluation import fold_of_pairs, one_kind_folds, usual_folds


@pytest.mark.parametrize(("num_pairs", "expected"), [(6000, 10), (40, 10), (20, 10)])
def test_sets_whose_kinds_alternate_keep_contiguous_folds(num_pairs, expected):
    assert usual_folds(np.arange(num_pairs) % 2 == 0) == expected


def test_pairs_sorted_by_kind_get_stratified_folds():
    issame = np.arange(600) < 300
    folds = usual_folds(issame)
    assert not isinstance(folds, int) and one_kind_folds(issame, folds) == []
    assert [int(issame[folds == fold].sum()) for fold in range(10)] == [30] * 10
    np.testing.assert_array_equal(folds, usual_folds(issame))


@given(st.lists(st.booleans(), min_size=1, max_size=60))
def test_no_usual_fold_holds_one_kind_where_there_are_two_pairs_of_each(issame):
    issame = np.array(issame)
    folds = usual_folds(issame)
    assert isinstance(folds, int) or folds.shape == issame.shape
    if min(issame.sum(), (~issame).sum()) >= 2:
        assert one_kind_folds(issame, fold_of_pairs(folds, len(issame))) == []


def test_folds_of_one_kind_are_found_whatever_their_numbers():
    issame = np.array([True, True, False, True, False, False])
    assert one_kind_folds(issame, [7, 7, 300, 5, 5, 300]) == [7, 300]
