"""Identification rates against the golden vectors, sorting a small matrix by hand and trying every threshold."""

from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from programs import ROOT

from evaluation import identify, join_searches, leave_one_out, unordered_pairs

GOLDEN = np.load(ROOT / "tests" / "golden" / "evaluation" / "identification.npz")

SCORES = np.array(
    [
        [0.9, 0.1, 0.2, 0.3],  # probe of identity 0: first
        [0.5, 0.4, 0.6, 0.1],  # of 1: third
        [0.7, 0.2, 0.7, 0.1],  # of 2: ties with another identity, which counts as behind it
        [0.1, 0.2, 0.3, 0.8],  # of 0, which has a second gallery image: first
    ]
)
PROBES, GALLERY = [0, 1, 2, 0], [0, 1, 2, 0]


@pytest.fixture(scope="module")
def golden_searches():
    arguments = GOLDEN["scores"] / 100, GOLDEN["probe_labels"], GOLDEN["gallery_labels"]
    return identify(*arguments), identify(*arguments, by_entry=True)


def test_golden_ranks(golden_searches):
    known = GOLDEN["known"]
    for search, name in zip(golden_searches, ("people", "entries"), strict=True):
        assert np.array_equal(search.known, known)
        for ties in ("optimistic", "pessimistic"):
            assert np.array_equal(search.rank(ties), GOLDEN[f"rank_{name}_{ties}"][known])
        assert np.array_equal(search.cmc(20), GOLDEN[f"cmc_{name}_pessimistic"])
    people = golden_searches[0]
    assert np.array_equal(people.cmc(20, ties="optimistic"), GOLDEN["cmc_people_optimistic"])
    assert people.to_dict((1, 20)) == {
        "rank_accuracy": {"1": people.cmc(1)[0], "20": people.cmc(20)[-1]},
        "num_probes": known.sum(),
        "num_strangers": (~known).sum(),
    }


@pytest.mark.parametrize(("rank", "name"), [(1, "rank1"), (20, "rank20"), (None, "any_rank")])
def test_golden_open_set(golden_searches, rank, name):
    curve = golden_searches[0].open_set(rank)
    assert np.array_equal(curve.threshold, GOLDEN["open_thresholds"])
    np.testing.assert_allclose(curve.fpir, GOLDEN["open_fpir"], rtol=0, atol=1e-12)
    np.testing.assert_allclose(curve.fnir, 1 - GOLDEN[f"open_tpir_{name}"], rtol=0, atol=1e-12)
    column = ("rank1", "rank20", "any_rank").index(name)
    for fpir in ("0.3", "0.1", "0.03", "0.01"):
        expected = GOLDEN[f"tpir_at_fpir_{fpir}"][column]
        assert golden_searches[0].tpir_at_fpir(float(fpir), rank) == pytest.approx(expected, abs=1e-12)


def test_ranks_by_hand():
    search = identify(SCORES, PROBES, GALLERY)
    assert search.rank().tolist() == [1, 3, 2, 1] and search.rank("optimistic").tolist() == [1, 3, 1, 1]
    assert search.cmc(3).tolist() == [0.5, 0.75, 1.0]


def test_two_entries_of_another_person_take_one_rank_or_two():
    scores = [[0.5, 0.4, 0.6, 0.45]]
    assert identify(scores, [1], GALLERY).rank().tolist() == [3]
    assert identify(scores, [1], GALLERY, by_entry=True).rank().tolist() == [4]


def naive_rank(row, person, gallery, sign):
    """Count the people whose best entry is above, and with sign also those that tie."""
    best = {other: max(s for s, g in zip(row, gallery, strict=True) if g == other) for other in set(gallery)}
    own = best.pop(person)
    return 1 + sum(score > own or (sign and score == own) for score in best.values())


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.integers(0, 4), min_size=1, max_size=9),
    st.lists(st.integers(0, 6), min_size=1, max_size=9),
    st.integers(0, 2**31),
    st.integers(1, 8),
)
def test_ranks_and_blocks_agree_with_counting_people(gallery, probes, seed, cut):
    scores = np.random.default_rng(seed).integers(0, 4, (len(probes), len(gallery))) / 4
    search = identify(scores, probes, gallery)
    assert search.known.tolist() == [person in gallery for person in probes]
    for ties, sign in (("pessimistic", True), ("optimistic", False)):
        expected = [
            naive_rank(row, person, gallery, sign)
            for row, person in zip(scores, probes, strict=True)
            if person in gallery
        ]
        assert search.rank(ties).tolist() == expected
    blocks = [slice(start, start + cut) for start in range(0, len(probes), cut)]
    joined = join_searches([identify(scores[block], probes[block], gallery) for block in blocks])
    for name in ("known", "above", "tied", "own", "best"):
        assert np.array_equal(getattr(joined, name), getattr(search, name))


def test_open_set_agrees_with_trying_every_threshold():
    rng = np.random.default_rng(1)
    gallery, probes = np.arange(10), np.concatenate([np.arange(10).repeat(3), np.full(40, -1)])
    scores = rng.normal(size=(70, 10)) + 2 * (probes[:, None] == gallery)
    known = probes >= 0
    first = scores.argmax(1) == probes
    for limit in (0.03, 0.1, 0.5):
        best = 0.0
        for threshold in scores.max(1):
            accepted = scores.max(1) >= threshold
            if accepted[~known].mean() <= limit:
                best = max(best, (accepted & first)[known].mean())
        assert identify(scores, probes, gallery).tpir_at_fpir(limit, rank=1) == best


def test_a_fpir_that_the_strangers_do_not_resolve_is_no_number_and_one_that_no_threshold_meets_gives_nothing():
    assert np.isnan(identify(SCORES, [0, 1, 2, 9], GALLERY).tpir_at_fpir(0.5, rank=1))
    strangers_first = identify(np.ones((5, 1)), [0, 1, 1, 1, 1], [0])
    assert strangers_first.tpir_at_fpir(0.5) == 0.0


@settings(max_examples=60)
@given(st.lists(st.integers(0, 4), min_size=3, max_size=14), st.integers(0, 2**31), st.integers(1, 99))
def test_leave_one_out_agrees_with_searching_one_by_one(labels, seed, cells):
    labels = np.array([*labels, labels[0]])
    num = len(labels)
    scores = np.random.default_rng(seed).integers(0, 5, num * (num - 1) // 2) / 4
    square = np.full((num, num), np.nan)
    for (i, j), score in zip(unordered_pairs(num), scores, strict=True):
        square[i, j] = square[j, i] = score
    hits = {1: [], 3: []}
    for probe in range(num):
        mates = [g for g in range(num) if g != probe and labels[g] == labels[probe]]
        others = [g for g in range(num) if labels[g] != labels[probe]]
        if mates:
            better = sum(square[probe, g] >= square[probe, mates].max() for g in others)
            for rank, found in hits.items():
                found.append(better < rank)
    with mock.patch("evaluation.scores.triangle._SQUARE_CELLS", cells):
        result = leave_one_out(scores, labels).to_dict((1, 3))
    assert result["num_probes"] == len(hits[1]) and result["num_strangers"] == num - len(hits[1])
    assert result["rank_accuracy"] == pytest.approx({str(rank): np.mean(found) for rank, found in hits.items()})


@settings(max_examples=40)
@given(st.lists(st.integers(0, 3), min_size=3, max_size=10), st.integers(0, 2**31), st.integers(1, 99))
def test_where_probes_and_gallery_have_roles_each_probe_has_its_own_scores(labels, seed, cells):
    labels = np.array([*labels, labels[0]])
    num = len(labels)
    square = np.random.default_rng(seed).integers(0, 9, (num, num)) / 8  # [probe, gallery]
    first, second = unordered_pairs(num).T
    ranks = []
    for probe in range(num):
        others = np.delete(np.arange(num), probe)
        is_mate = labels[others] == labels[probe]
        if is_mate.any():
            own = square[probe, others[is_mate]].max()
            ranks.append(1 + np.sum(square[probe, others[~is_mate]] >= own))
    with mock.patch("evaluation.scores.triangle._SQUARE_CELLS", cells):
        result = leave_one_out(square[second, first], labels, with_later=square[first, second])
    assert result.cmc(2) == pytest.approx([np.mean(np.array(ranks) <= rank) for rank in (1, 2)])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: leave_one_out([0.1, 0.2, 0.3], [0, 0, 1], with_later=[0.1]), "all 3 pairs of 3 images are needed"),
        (lambda: identify(SCORES[:3], PROBES, GALLERY), r"\[4, 4\].*got \[3, 4\]"),
        (lambda: identify(np.where(SCORES == 0.6, np.nan, SCORES), PROBES, GALLERY), "probe 1, gallery image 2"),
        (lambda: identify(np.empty((2, 0)), [0, 1], []), "neither of them empty"),
        (lambda: identify(SCORES, PROBES, GALLERY).cmc(0), "at least 1, got 0"),
        (lambda: identify(SCORES, PROBES, GALLERY).cmc(1, "lucky"), "pessimistic, optimistic, got 'lucky'"),
        (lambda: identify(SCORES, [7, 8, 9, 9], GALLERY).cmc(1), "nobody to find"),
        (lambda: identify(SCORES, PROBES, GALLERY).open_set(), "FPIR needs some"),
        (lambda: identify(SCORES, [0, 1, 2, 9], GALLERY).open_set(0), "at least 1, or None for any, got 0"),
        (lambda: identify(SCORES, [0, 1, 2, 9], GALLERY).tpir_at_fpir(1.0), r"must lie in \(0, 1\)"),
        (lambda: leave_one_out([0.1, 0.2], [0, 0, 1]), r"all 3 pairs of 3 images are needed, got \[2\]"),
        (lambda: leave_one_out([0.1, 0.2, 0.3], [0, 1, 2]), "no identity has two images"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()
