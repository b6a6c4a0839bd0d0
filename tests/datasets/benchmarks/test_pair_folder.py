import numpy as np
import pytest
from benchmark_sets import assert_one_line, listing

from datasets import ImageFolderDataset, load_benchmark, read_pairs

TAB_PAIRS = "2\t1\nAnn_Lee\t1\t2\nAnn_Lee\t1\tBob\t1\nBob\t1\t2\nBob\t2\tAnn_Lee\t2\n"


@pytest.fixture
def faces(tmp_path, write_image):
    """Return `<root>/lfw` with two identities of two images each, and the images by path."""
    root = tmp_path / "data" / "lfw"
    names = ("Ann_Lee/Ann_Lee_0001.png", "Ann_Lee/Ann_Lee_0002.png", "Bob/Bob_0001.png", "Bob/Bob_0002.png")
    return root, {name: write_image(root / name, seed=seed) for seed, name in enumerate(names)}


def load(root, cache):
    return load_benchmark(root.parent, "lfw", cache=cache)


def test_lfw_keeps_its_folds_its_order_and_its_identities(faces, tmp_path):
    root, images = faces
    (root / "pairs.txt").write_text(TAB_PAIRS)
    benchmark = load(root, tmp_path / "cache")
    ann1, ann2, bob1, bob2 = images.values()
    np.testing.assert_array_equal(benchmark.images, np.stack([ann1, ann2, ann1, bob1, bob1, bob2, bob2, ann2]))
    assert benchmark.issame.tolist() == [True, False, True, False]
    assert benchmark.folds.tolist() == [0, 0, 1, 1]
    assert benchmark.identities.tolist() == [0, 0, 0, 1, 1, 1, 1, 0]
    assert isinstance(benchmark.images, np.memmap) and "images.npy" not in " ".join(listing(root))


def test_the_ten_folds_of_the_protocol(faces, tmp_path):
    root, _ = faces
    (root / "pairs.txt").write_text("10\t2\n" + ("Bob\t1\t2\n" * 2 + "Bob\t1\tAnn_Lee\t2\n" * 2) * 10)
    assert load(root, tmp_path / "cache").folds.tolist() == np.repeat(np.arange(10), 4).tolist()


def test_csv_pairs_decide_over_the_folders(faces, tmp_path):
    root, images = faces
    (root / "pairs.csv").write_text("path1,path2,label\nBob/Bob_0001.png,Bob/Bob_0002.png,0\n")
    benchmark = load_benchmark(root, "mine", cache=tmp_path / "cache")
    assert benchmark.name == "mine" and benchmark.issame.tolist() == [False]
    assert benchmark.folds is None and benchmark.identities is None
    np.testing.assert_array_equal(benchmark.images[1], images["Bob/Bob_0002.png"])


def test_a_changed_list_or_image_is_noticed(faces, tmp_path, write_image):
    root, _ = faces
    (root / "pairs.txt").write_text(TAB_PAIRS)
    sources = [load(root, tmp_path / "cache").source]
    image = write_image(root / "Bob/Bob_0002.png", seed=9)
    changed = load(root, tmp_path / "cache")
    np.testing.assert_array_equal(changed.images[5], image)
    (root / "pairs.txt").write_text(TAB_PAIRS.replace("Bob\t2\tAnn_Lee\t2", "Bob\t2\tAnn_Lee\t1"))
    sources += [changed.source, load(root, tmp_path / "cache").source]
    assert len(set(sources)) == 3
    write_image(root / "Bob/Bob_0003.png", seed=9)  # in no pair
    assert load(root, tmp_path / "cache").source == sources[-1]


def test_the_folder_that_holds_other_sets_is_not_taken_for_each_of_them(faces, tmp_path):
    root, _ = faces
    (root / "pairs.txt").write_text(TAB_PAIRS)
    with pytest.raises(ValueError, match="no benchmark 'calfw'"):
        load_benchmark(root.parent, "calfw", cache=tmp_path / "cache")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("2\t1\nBob\t1\t2\n", "promises 2 x 1"),
        ("Bob\t1\t7\n", "line 1: no image 7 of 'Bob'"),
        ("../data/lfw/Bob\t1\t2\n", "line 1: no image 1 of"),
        ("Bob\t1\t" + "9" * 5000 + "\n", "line 1: expected"),
        ("9" * 5000 + "\t1\nBob\t1\t2\n", "line 1: expected"),
        ('Bob/Bob_0001.png,"' + "x" * 200_000 + "\n", "line 1: expected"),
    ],
)
def test_a_damaged_list_is_refused_in_one_line(faces, tmp_path, text, message):
    root, _ = faces
    (root / "pairs.txt").write_text(text)
    with pytest.raises(ValueError) as caught:
        load(root, tmp_path / "cache")
    assert f"{root}/pairs.txt" in str(caught.value) and message in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "cache").exists()


def test_mutated_lists_are_read_or_refused(faces, tmp_path):
    root, _ = faces
    dataset = ImageFolderDataset(root)
    file = root / "pairs.txt"
    rng = np.random.default_rng(0)
    lists = (
        TAB_PAIRS.encode(),
        b"path1,path2,label\nBob/Bob_0001.png,Bob/Bob_0002.png,0\nBob/Bob_0001.png,Bob/Bob_0002.png,1\n",
    )
    refused = 0
    for number in range(400):
        data = bytearray(lists[number % 2])
        for _ in range(rng.integers(1, 4)):
            place = int(rng.integers(len(data)))
            data[place : place + int(rng.integers(2))] = bytes(
                rng.choice(list(b"\t\n ,\"'0129/.\\B\x00\xff"), rng.integers(3)).tolist()
            )
        file.write_bytes(data)
        try:
            pairs = read_pairs(file, dataset)
            assert len(pairs.first) == len(pairs.second) == len(pairs.issame) > 0
        except ValueError as error:
            assert_one_line(error, str(file))
            refused += 1
    assert 100 < refused < 400


def test_an_unreadable_image_is_named_and_leaves_nothing(faces, tmp_path):
    root, _ = faces
    (root / "pairs.txt").write_text(TAB_PAIRS)
    (root / "Bob/Bob_0002.png").write_bytes(b"damaged")
    with pytest.raises(ValueError) as caught:
        load(root, tmp_path / "cache")
    assert_one_line(caught.value, f"{root}/Bob/Bob_0002.png")
    assert listing(tmp_path / "cache") == ["benchmarks"]
