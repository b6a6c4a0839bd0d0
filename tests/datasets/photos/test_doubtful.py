"""What counts as doubtful, and how much."""

import pytest

from datasets.photos.doubtful import why_doubtful

GOOD = {"status": "aligned", "look": "as is", "residual": "2.5", "inside": "0.99", "faces": "1"}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, (0, "")),
        ({"look": "given"}, (0, "")),
        ({"status": "unreadable"}, (0, "")),
        ({"faces": "3"}, (1, "3 faces")),
        ({"inside": "0.55"}, (2, "55% inside")),
        ({"residual": "7.26"}, (3, "residual 7.3")),
        ({"look": "x2", "faces": "2"}, (4, "x2")),
        ({"status": "cut"}, (5, "cut")),
        ({"status": "center"}, (5, "center")),
    ],
)
def test_doubts_are_ranked_and_named(change, expected):
    assert why_doubtful(GOOD | change) == expected
