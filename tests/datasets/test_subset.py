import numpy as np
import pytest

from datasets import IdentitySubset, ImageFolderDataset, split_identities


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


def test_identities_with_several_images_are_held_out_first():
    counts = np.array([1] * 16 + [5] * 4)
    for seed in range(5):
        assert split_identities(20, 0.2, seed, counts)[1].tolist() == [16, 17, 18, 19]
        assert set(split_identities(20, 0.3, seed, counts)[1]) > {16, 17, 18, 19}


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
