"""The hardest pairs: those that sorting by hand finds."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluation.protocols.hardest import hardest


@given(num_pairs=st.integers(2, 40), seed=st.integers(0, 1000), count=st.integers(0, 50))
def test_the_hardest_are_those_that_sorting_finds(num_pairs, seed, count):
    rng = np.random.default_rng(seed)
    issame, scores = rng.random(num_pairs) < 0.5, rng.integers(0, 6, num_pairs) / 2
    ordered = sorted(range(num_pairs), key=lambda place: (scores[place], place))
    reverse = sorted(range(num_pairs), key=lambda place: (-scores[place], place))
    assert hardest(scores, issame, count) == {
        "genuine": [place for place in ordered if issame[place]][:count],
        "impostor": [place for place in reverse if not issame[place]][:count],
    }


def test_refusals():
    with pytest.raises(ValueError, match="hardest"):
        hardest([0.5, np.nan], [True, False], 1)
