"""People of two data sets who are nearest to each other, against a loop."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datasets.doctor import shared_identities as module
from datasets.doctor.shared_identities import shared_identities


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**31), st.integers(0, 9), st.integers(0, 9), st.floats(-1, 1))
def test_a_loop_finds_the_same_pairs_with_many_ties(seed, num_a, num_b, threshold):
    rng = np.random.default_rng(seed)
    # Two directions at right angles and their opposites: cosines are exactly -1, 0 and 1.
    sides = [np.eye(2)[rng.integers(0, 2, num)] * rng.choice([-4.0, 0.5], (num, 1)) for num in (num_a, num_b)]
    cosines = np.sign(sides[0] @ sides[1].T)
    expected = {
        (i, int(cosines[i].argmax()), float(cosines[i].max()))
        for i in range(num_a if num_b else 0)
        if cosines[:, cosines[i].argmax()].argmax() == i and cosines[i].max() >= np.float32(threshold)
    }
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(module, "_ROWS", 2)
        found = shared_identities(*sides, threshold)
    assert set(found) == expected and len(found) == len(expected)
    assert [pair.cosine for pair in found] == sorted((pair.cosine for pair in found), reverse=True)


def test_people_who_are_in_both_sets_are_found_among_many_others():
    rng = np.random.default_rng(0)
    means_a, means_b = rng.normal(size=(3000, 64)), rng.normal(size=(2500, 64))
    means_b[[7, 2400]] = 3 * means_a[[2999, 5]] + rng.normal(size=(2, 64)) * 0.3
    found = shared_identities(means_a.astype(np.float16), means_b, 0.8)
    assert {pair[:2] for pair in found} == {(2999, 7), (5, 2400)} and min(pair.cosine for pair in found) > 0.97


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.ones((2, 3)), np.ones((2, 4)), 0.5), "one length, got 3 and 4; they come from different networks"),
        ((np.ones(3), np.ones((2, 3)), 0.5), r"the first set must be \[people, D\], got \[3\]"),
        ((np.ones((2, 3)), np.array([[1, 1, 1], [0, 0, 0]]), 0.5), "1 means of the second set are 0 .* person 1"),
        ((np.ones((2, 3)), np.ones((2, 3)), 1.5), "threshold is a cosine"),
        ((np.ones((2, 3)), np.ones((2, 3)), float("nan")), "threshold is a cosine"),
    ],
)
def test_odd_means_are_refused(arguments, message):
    with pytest.raises(ValueError, match=f"shared_identities: .*{message}"):
        shared_identities(*arguments)
