import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datasets import IdentitySubset, ImageFolderDataset, all_pairs, cache_benchmark, make_benchmark
from datasets.benchmarks import cache as cache_module
from datasets.faces.images import UnreadableImageError


class FakeDataset:
    """Images that carry their own index, without files."""

    decoding = ""

    def __init__(self, counts, broken=()):
        self.labels = np.repeat(np.arange(len(counts)), counts)
        self.class_names = [str(label) for label in range(len(counts))]
        self.paths = [f"{index}.png" for index in range(len(self.labels))]
        self.broken = set(broken)
        self.num_reads = 0

    def __len__(self):
        return len(self.labels)

    def read(self, index):
        self.num_reads += 1
        if index in self.broken:
            raise UnreadableImageError(self.paths[index], "broken")
        image = np.zeros((112, 112, 3), np.uint8)
        image[0, 0] = (index // 65536, index // 256 % 256, index % 256)
        return image


def members(benchmark):
    corner = benchmark.images[:, 0, 0].astype(int)
    return (corner @ [65536, 256, 1]).reshape(-1, 2)


def check(benchmark, dataset):
    """What every benchmark of our own keeps, and the positions of its pairs."""
    pairs = members(benchmark)
    labels = dataset.labels[pairs]
    assert (pairs[:, 0] != pairs[:, 1]).all()
    assert len({frozenset(pair) for pair in pairs.tolist()}) == len(pairs)
    np.testing.assert_array_equal(benchmark.issame, labels[:, 0] == labels[:, 1])
    np.testing.assert_array_equal(benchmark.identities.reshape(-1, 2), labels)
    assert benchmark.issame.sum() * 2 == len(pairs)
    genuine = Counter(benchmark.folds[benchmark.issame].tolist())
    assert genuine == Counter(benchmark.folds[~benchmark.issame].tolist())
    assert max(genuine.values()) - min(genuine.values()) <= 1
    assert sorted(genuine) == list(range(min(10, len(pairs) // 2)))
    return pairs


def test_all_pairs_are_every_unordered_pair_once():
    labels = [0, 0, 1, 2, 1]
    pairs = all_pairs(labels)
    expected = list(itertools.combinations(range(5), 2))
    assert list(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True)) == expected
    assert pairs.issame.tolist() == [labels[i] == labels[j] for i, j in expected]
    assert pairs.folds is None
    assert len(all_pairs([3]).first) == 0


@settings(max_examples=60)
@given(
    st.lists(st.integers(1, 6), min_size=2, max_size=8).filter(lambda counts: sum(c * (c - 1) for c in counts) >= 4),
    st.integers(4, 60),
    st.integers(0, 9),
)
def test_an_own_benchmark_is_balanced_and_free_of_repeats(counts, max_pairs, seed):
    dataset = FakeDataset(counts)
    benchmark = make_benchmark(dataset, "own", max_pairs, seed)
    check(benchmark, dataset)
    possible = sum(count * (count - 1) // 2 for count in counts)
    impostors = sum(counts) * (sum(counts) - 1) // 2 - possible
    # The images are limited to two a pair, which can cost pairs only where there is more than that to choose from.
    if sum(counts) <= 2 * max_pairs and len(counts) <= max_pairs:
        assert len(benchmark) == 2 * min(max_pairs // 2, possible, impostors)
    assert 4 <= len(benchmark) <= max_pairs


def test_genuine_pairs_are_spread_over_the_identities():
    dataset = FakeDataset([100] * 5 + [2] * 5)
    pairs = check(make_benchmark(dataset, max_pairs=200), dataset)
    genuine = Counter(
        dataset.labels[first] for first, second in pairs if dataset.labels[first] == dataset.labels[second]
    )
    assert all(genuine[label] == 1 for label in range(5, 10))
    assert {genuine[label] for label in range(5)} == {19}


def test_a_large_data_set_is_sampled_not_read():
    dataset = FakeDataset([30] * 400)
    pairs = check(make_benchmark(dataset, max_pairs=100), dataset)
    assert len(pairs) == 100 and dataset.num_reads <= 200
    assert len(set(dataset.labels[pairs].ravel().tolist())) > 80


def test_a_benchmark_follows_the_seed():
    dataset = FakeDataset([5] * 20)
    first, second, other = (members(make_benchmark(dataset, max_pairs=40, seed=seed)).tolist() for seed in (1, 1, 2))
    assert first == second != other


def test_unreadable_images_are_skipped_and_reported(caplog):
    dataset = FakeDataset([4, 4, 4, 4], broken=(0, 5, 6))
    pairs = check(make_benchmark(dataset, "own", max_pairs=60), dataset)
    assert not set(pairs.ravel().tolist()) & {0, 5, 6}
    (record,) = caplog.records
    assert "own: 3 unreadable images are skipped, the first is" in record.getMessage()


def test_one_file_met_twice_counts_once():
    dataset = FakeDataset([2, 3])
    dataset.paths[3] = dataset.paths[2]
    pairs = check(make_benchmark(dataset, max_pairs=60), dataset)
    assert {2, 3} - set(pairs.ravel().tolist())


@pytest.mark.parametrize(
    ("counts", "broken", "message"),
    [
        ([5], (), "1 identity with 5 readable images give 10 genuine and 0 impostor pairs"),
        ([1, 1], (), "2 identities with 2 readable images give 0 genuine and 1 impostor pairs"),
        ([2, 2], (0,), "2 identities with 3 readable images give 1 genuine"),
        ([2, 1], (0, 1, 2), "0 identities with 0 readable images give 0 genuine and 0 impostor pairs"),
    ],
)
def test_without_genuine_or_impostor_pairs_there_is_no_benchmark(counts, broken, message):
    with pytest.raises(ValueError, match=f"{message}.*at least two of each are needed"):
        make_benchmark(FakeDataset(counts, broken))


def test_fewer_than_four_pairs_are_refused():
    with pytest.raises(ValueError, match="max_pairs must be at least 4"):
        make_benchmark(FakeDataset([3, 3]), max_pairs=3)


def test_a_cached_benchmark_is_made_once_and_mapped(make_folder, tmp_path, monkeypatch):
    subset = IdentitySubset(ImageFolderDataset(make_folder([3, 3, 3])), [0, 2])
    first = cache_benchmark(subset, "own", 8, seed=1, cache=tmp_path / "cache")
    np.testing.assert_array_equal(first.images, make_benchmark(subset, "own", 8, seed=1).images)
    assert isinstance(first.images, np.memmap)

    def fail(*_):
        raise AssertionError("made again")

    with monkeypatch.context() as patch:
        patch.setattr(cache_module, "make_benchmark", fail)
        second = cache_benchmark(subset, "own", 8, seed=1, cache=tmp_path / "cache")
        np.testing.assert_array_equal(first.images, second.images)
    (file,) = (tmp_path / "cache").rglob("images.npy")
    file.unlink()  # not overwritten: it is mapped
    file.write_bytes(b"damaged")
    third = cache_benchmark(subset, "own", 8, seed=1, cache=tmp_path / "cache")
    np.testing.assert_array_equal(third.images, second.images)
    subset.paths[0].write_bytes(subset.paths[4].read_bytes())
    changed = cache_benchmark(subset, "own", 8, seed=1, cache=tmp_path / "cache")
    assert not np.array_equal(first.images, changed.images)


def test_ranks_that_cache_at_once_share_one_benchmark(make_folder, tmp_path, monkeypatch):
    dataset = ImageFolderDataset(make_folder([3, 3]))
    real = make_benchmark

    def slow(*arguments):
        # Another rank starts and finishes while this one is still reading.
        monkeypatch.setattr(cache_module, "make_benchmark", real)
        cache_benchmark(dataset, "own", 4, cache=tmp_path / "cache")
        return real(*arguments)

    monkeypatch.setattr(cache_module, "make_benchmark", slow)
    cached = cache_benchmark(dataset, "own", 4, cache=tmp_path / "cache")
    np.testing.assert_array_equal(cached.images, real(dataset, "own", 4).images)
    assert len(list((tmp_path / "cache" / "benchmarks").iterdir())) == 1


def test_the_cache_tells_seeds_identities_and_channel_orders_apart(make_folder, tmp_path):
    root = make_folder([3, 3, 3, 3])
    plain, swapped = ImageFolderDataset(root), ImageFolderDataset(root, swap_color_channel=True)
    made = [
        cache_benchmark(IdentitySubset(dataset, identities), "own", max_pairs, seed, tmp_path / "cache")
        for dataset, identities, max_pairs, seed in (
            (plain, [0, 1], 8, 0),
            (swapped, [0, 1], 8, 0),
            (plain, [0, 2], 8, 0),
            (plain, [0, 1], 6, 0),
            (plain, [0, 1], 8, 1),
        )
    ]
    np.testing.assert_array_equal(made[0].images, made[1].images[..., ::-1])
    assert len({benchmark.images.tobytes() for benchmark in made}) == 5


def test_a_cache_that_cannot_be_written_leaves_the_benchmark_in_memory(make_folder, tmp_path, caplog):
    (tmp_path / "file").write_text("")
    benchmark = cache_benchmark(ImageFolderDataset(make_folder([3, 3])), max_pairs=4, cache=tmp_path / "file")
    assert len(benchmark) == 4 and not isinstance(benchmark.images, np.memmap)
    assert "cannot cache the benchmark" in caplog.text


def test_the_cache_folder_is_the_users(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("MASKWISE_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_module.cache_folder() == tmp_path / ".cache" / "maskwise"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_module.cache_folder() == tmp_path / "xdg" / "maskwise"
    monkeypatch.setenv("MASKWISE_CACHE", str(tmp_path / "own"))
    assert cache_module.cache_folder() == tmp_path / "own"
