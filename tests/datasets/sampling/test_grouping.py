import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datasets.sampling.grouping import check_labels, group_by_label


@given(st.lists(st.one_of(st.integers(0, 5), st.integers(0, 2**62)), min_size=1, max_size=60))
def test_groups_are_the_positions_of_each_label(labels):
    groups = group_by_label(np.array(labels))
    expected = [[i for i, label in enumerate(labels) if label == chosen] for chosen in sorted(set(labels))]
    found = [
        groups.order[start : start + count].tolist() for start, count in zip(groups.starts, groups.counts, strict=True)
    ]
    assert found == expected
    assert groups.order.dtype == np.int64


def test_unsigned_labels_become_int64():
    assert check_labels(np.array([1, 0], np.uint8), "x").dtype == np.int64
    with pytest.raises(ValueError, match="x: labels must be a non-empty list"):
        check_labels([], "x")
