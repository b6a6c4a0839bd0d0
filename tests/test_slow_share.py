"""The share of the slow tests that a commit runs."""

import hashlib

from slow_share import in_share

IDS = [f"tests/training/test_{number}.py::test_it[{number % 7}]" for number in range(400)]


def test_the_shares_of_all_commits_are_all_tests_each_once():
    for test_id in IDS:
        assert sum(in_share(test_id, f"{number:08x}", 8) for number in range(8)) == 1


def test_a_commit_has_the_same_share_every_time_and_others_have_others():
    revisions = [hashlib.sha1(bytes([number])).hexdigest() for number in range(60)]
    shares = [tuple(in_share(test_id, revision, 8) for test_id in IDS) for revision in revisions]
    assert shares == [tuple(in_share(test_id, revision, 8) for test_id in IDS) for revision in revisions]
    assert len(set(shares)) == 8
    assert all(20 < sum(share) < 90 for share in shares)
