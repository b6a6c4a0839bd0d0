import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datasets import IdentitySubset, ImageFolderDataset, split_at_random, split_identities


def test_a_subset_is_the_same_images_with_contiguous_labels(make_folder):
    dataset = ImageFolderDataset(make_folder([2, 3, 1, 2]))
    subset = IdentitySubset(dataset, [3, 1])
    assert subset.class_names == ["id01", "id03"]
    assert subset.labels.tolist() == [0, 0, 0, 1, 1] and subset.labels.dtype == np.int64
    assert [path.parent.name for path in subset.paths] == ["id01"] * 3 + ["id03"] * 2
    for index in range(len(subset)):
        sample = subset[index]
        np.testing.assert_array_equal(sample.image, dataset.read(int(subset.indices[index])))
        assert (sample.label, sample.index) == (subset.labels[index], index)
    again = IdentitySubset(subset, [1])
    assert again.class_names == ["id03"] and list(again.paths) == list(dataset.paths)[6:]


@pytest.mark.parametrize("identities", [[], [0, 0], [4], [-1]])
def test_a_subset_of_nothing_or_of_strangers_is_refused(make_folder, identities):
    with pytest.raises(ValueError, match=r"must be distinct and in \[0, 4\)"):
        IdentitySubset(ImageFolderDataset(make_folder([2, 2, 2, 2])), identities)


@pytest.mark.parametrize(("num", "fraction", "held_out"), [(100, 0.1, 10), (30, 0.01, 2), (5, 0.99, 3), (4, 0.5, 2)])
def test_a_split_is_a_partition_of_the_wanted_size(num, fraction, held_out):
    train, validation = split_identities(num, fraction, seed=3)
    assert len(validation) == held_out
    assert sorted([*train, *validation]) == list(range(num))
    assert (np.diff(train) > 0).all() and (np.diff(validation) > 0).all()


def test_a_split_follows_the_seed():
    first, second = split_identities(50, 0.2, seed=1), split_identities(50, 0.2, seed=1)
    assert first[1].tolist() == second[1].tolist()
    assert first[1].tolist() != split_identities(50, 0.2, seed=2)[1].tolist()


def test_the_division_of_earlier_runs_holds_identities_with_several_images_out_first():
    counts = np.array([1] * 16 + [5] * 4)
    for seed in range(5):
        assert split_at_random(20, 0.2, seed, counts)[1].tolist() == [16, 17, 18, 19]
        assert set(split_at_random(20, 0.3, seed, counts)[1]) > {16, 17, 18, 19}
    # What a run that goes on depends on: numbers that no version may change.
    assert split_at_random(10, 0.3, 42, np.arange(10))[1].tolist() == [5, 6, 7]


def skewed(kind, num_people, rng):
    """Return int64 [num_people], images of each of people of whom some have very many."""
    if kind == "zipf":
        return (num_people * 3 / np.arange(1, num_people + 1)).astype(np.int64) + 1
    if kind == "one person has a third":
        return np.append(np.full(num_people - 1, 10), 5 * num_people)
    if kind == "most have one image":
        return np.where(rng.random(num_people) < 0.7, 1, rng.geometric(0.1, num_people) + 1)
    return np.ceil(rng.lognormal(1.5, 1.2, num_people)).astype(np.int64)


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(["zipf", "one person has a third", "most have one image", "lognormal"]),
    num_people=st.integers(40, 400),
    fraction=st.floats(0.05, 0.5),
    seed=st.integers(0, 10_000),
)
def test_of_a_skewed_set_the_share_of_people_and_of_images_are_held_out(kind, num_people, fraction, seed):
    counts = np.random.default_rng(seed).permutation(skewed(kind, num_people, np.random.default_rng(seed)))
    train, held_out = split_identities(num_people, fraction, seed, counts)
    again = split_identities(num_people, fraction, seed, counts)[1]
    assert held_out.tolist() == again.tolist() and sorted([*train, *held_out]) == list(range(num_people))
    assert len(held_out) == round(fraction * num_people)
    share, one = counts[held_out].sum() / counts.sum(), 1 / num_people
    # A person more or less is a share of images too; who has most of them is held out or not.
    unavoidable = 2 * one + fraction * counts.max() / counts.sum()
    assert abs(share - fraction) <= 0.01 + unavoidable
    assert (counts[held_out] > 1).sum() >= min(2, (counts > 1).sum())


def test_every_seed_holds_out_its_share_of_images_where_random_divisions_do_not():
    counts = skewed("zipf", 500, None)

    def shares(split):
        held_out = [split(500, 0.1, seed, counts)[1] for seed in range(30)]
        assert len({tuple(people) for people in held_out}) == 30
        return [counts[people].sum() / counts.sum() for people in held_out]

    assert max(shares(split_at_random)) > 0.2
    assert 0.09 < min(shares(split_identities)) <= max(shares(split_identities)) < 0.11


def test_two_people_with_several_images_are_held_out_where_few_have_them():
    counts = np.array([1] * 18 + [2] * 2)
    assert split_identities(20, 0.1, 0, counts)[1].tolist() == [18, 19]
    assert {18, 19} < set(split_identities(20, 0.3, 0, counts)[1])


def test_a_split_without_validation():
    train, validation = split_identities(3, 0, seed=0)
    assert train.tolist() == [0, 1, 2] and validation.tolist() == []


@pytest.mark.parametrize(
    ("num", "fraction", "counts", "message"),
    [
        (3, 0.5, None, "3 identities cannot be divided"),
        (9, 1.0, None, "fraction must be in"),
        (9, -0.1, None, "fraction must be in"),
        (9, 0.5, np.ones(8), "need as many counts"),
    ],
)
def test_a_split_that_cannot_be_made_is_refused(num, fraction, counts, message):
    with pytest.raises(ValueError, match=message):
        split_identities(num, fraction, 0, counts)
