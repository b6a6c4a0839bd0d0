"""Folder and pairs -> .bin -> memory map, and the sets of others -> memory map."""

import pickle
import shutil

import numpy as np
import pytest
from benchmark_sets import draw_images, write_bcolz, write_bin
from benchmark_sets import normalize as normalized
from converted_faces import contents, kill_at, killed, read_rgb, write_face
from programs import ROOT

from datasets import ImageFolderDataset, load_benchmark, read_pairs
from datasets.benchmarks.benchmark_folder import read_folder
from datasets.benchmarks.bin_file import read_bin
from datasets.conversion import encoding, to_bin, workspace
from datasets.conversion.encoding import Encoding
from datasets.conversion.outcome import Job
from datasets.conversion.to_bin import folder_to_bin
from datasets.conversion.to_memmap import sets_to_memmap
from datasets.synthetic.prepare import render_identities

GOLDEN = ROOT / "tests" / "golden"
PAIRS = "2\t2\nann\t1\t2\nbob\t1\t2\nann\t1\tbob\t1\nann\t2\tbob\t2\n" + (
    "ann\t2\t3\nbob\t2\t3\nann\t3\tbob\t3\nann\t2\tbob\t1\n"
)


@pytest.fixture(scope="module")
def images():
    return render_identities("convert sets", 2, 3)[0]


@pytest.fixture
def folder(tmp_path, images):
    """Two identities of three images, two of which are no JPEG or PNG of 112 x 112, and eight pairs in two folds."""
    root = tmp_path / "mine"
    suffixes = [".jpg", ".png", ".bmp", ".png", ".jpg", ".png"]
    for number, (image, suffix) in enumerate(zip(images, suffixes, strict=True)):
        name = "ann" if number < 3 else "bob"
        size = image if number != 5 else np.repeat(image, 2, axis=1)
        write_face(root / name / f"{name}_{number % 3 + 1:04d}{suffix}", size)
    (root / "pairs.txt").write_text(PAIRS)
    return root


def job(source, output, **options):
    return Job(source, output, **{"encoding": Encoding(), **options})


def expected_images(folder):
    dataset = ImageFolderDataset(folder)
    pairs = read_pairs(folder / "pairs.txt", dataset)
    members = np.stack([pairs.first, pairs.second], axis=1).ravel()
    return np.stack([dataset.read(index) for index in members.tolist()]), pairs


def test_the_published_layout_reads_the_file(folder, tmp_path):
    """As InsightFace's verification.py reads it; what was a JPEG or PNG of 112 x 112 has the bytes it had."""
    outcome = folder_to_bin(job(folder, tmp_path / "mine.bin"))
    assert outcome.num_unreadable == 0 and "8 pairs, 4 of them genuine" in outcome.text
    with (tmp_path / "mine.bin").open("rb") as file:
        bins, issame = pickle.load(file, encoding="bytes")
    assert {type(data) for data in bins} == {bytes} and {type(answer) for answer in issame} == {bool}
    expected, pairs = expected_images(folder)
    assert issame == pairs.issame.tolist() == [True, True, False, False] * 2
    for data, image in zip(bins, expected, strict=True):
        np.testing.assert_array_equal(read_rgb(data), image)
    assert bins[0] == (folder / "ann/ann_0001.jpg").read_bytes()
    assert bins[3] == (folder / "bob/bob_0002.jpg").read_bytes()


def test_folder_to_bin_to_memory_map_keeps_the_pixels(folder, tmp_path):
    folder_to_bin(job(folder, tmp_path / "mine.bin"))
    (outcome,) = sets_to_memmap(job(tmp_path / "mine.bin", tmp_path / "sets"))
    assert outcome.text.endswith("sets/mine: 8 pairs")
    benchmark = read_folder(tmp_path / "sets/mine", "mine")
    expected, pairs = expected_images(folder)
    np.testing.assert_array_equal(benchmark.images, expected)
    np.testing.assert_array_equal(benchmark.issame, pairs.issame)
    assert benchmark.source.startswith("sha256:")


def test_folder_to_memory_map_keeps_folds_and_identities(folder, tmp_path):
    sets_to_memmap(job(folder, tmp_path / "sets"), name="own")
    benchmark = load_benchmark(tmp_path / "sets", "own")
    expected, _ = expected_images(folder)
    np.testing.assert_array_equal(benchmark.images, expected)
    assert benchmark.folds.tolist() == [0] * 4 + [1] * 4
    assert benchmark.identities[:8].tolist() == [0, 0, 1, 1, 0, 1, 0, 1]


def test_jpeg_is_written_where_it_is_asked_for(folder, tmp_path):
    folder_to_bin(job(folder, tmp_path / "mine.bin", encoding=Encoding("jpeg", 80)))
    bins, _ = pickle.loads((tmp_path / "mine.bin").read_bytes())
    (folder / "pairs.txt").unlink()
    assert [data[:2] == b"\xff\xd8" for data in bins[8:12]] == [False, True, True, True]


def test_another_list_of_pairs(folder, tmp_path):
    (folder / "pairs.txt").rename(tmp_path / "list.csv")
    (tmp_path / "list.csv").write_text("ann/ann_0001.jpg,bob/bob_0002.jpg,0\n")
    with pytest.raises(ValueError, match="--pairs"):
        folder_to_bin(job(folder, tmp_path / "mine.bin"))
    folder_to_bin(job(folder, tmp_path / "mine.bin"), tmp_path / "list.csv")
    bins, issame = pickle.loads((tmp_path / "mine.bin").read_bytes())
    assert len(bins) == 2 and issame == [False]


def test_a_set_with_an_unreadable_image_is_not_written(folder, tmp_path):
    """With pairs left out it would be another protocol."""
    (folder / "ann/ann_0002.png").write_bytes(b"broken")
    (folder / "bob/bob_0003.png").write_bytes(b"")
    outcome = folder_to_bin(job(folder, tmp_path / "mine.bin"))
    assert outcome.num_unreadable == 2 and "not written" in outcome.text
    assert [line.split("\t")[0] for line in outcome.unreadable.read_text().splitlines()] == [
        str(folder / "ann/ann_0002.png"), str(folder / "bob/bob_0003.png"),
    ]  # fmt: skip
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "mine.bin.unreadable.tsv"]


@pytest.mark.parametrize("place", [1, 6, 16])
def test_a_killed_conversion_goes_on(folder, tmp_path, monkeypatch, place):
    monkeypatch.setattr(to_bin, "CHECKPOINT", 4)
    monkeypatch.setattr("datasets.payloads.PORTION", 1)
    folder_to_bin(job(folder, tmp_path / "expected.bin"))
    with monkeypatch.context() as patch:
        patch.setattr(encoding, "decode_payload", kill_at(place, encoding.decode_payload))
        assert killed(lambda: folder_to_bin(job(folder, tmp_path / "mine.bin")))
    assert not (tmp_path / "mine.bin").exists()
    decoded = []
    monkeypatch.setattr(
        encoding, "decode_payload", lambda payload, work=encoding.decode_payload: decoded.append(0) or work(payload)
    )
    folder_to_bin(job(folder, tmp_path / "mine.bin"))
    assert len(decoded) == 16 - (place - 1) // 4 * 4
    assert (tmp_path / "mine.bin").read_bytes() == (tmp_path / "expected.bin").read_bytes()


@pytest.mark.parametrize("is_broken", [False, True])
def test_killed_at_the_very_end_it_ends_alike(folder, tmp_path, monkeypatch, is_broken):
    if is_broken:
        (folder / "ann/ann_0002.png").write_bytes(b"broken")
    expected = folder_to_bin(job(folder, tmp_path / "expected.bin"))
    with monkeypatch.context() as patch:
        patch.setattr(workspace.Workspace, "publish", kill_at(1, workspace.Workspace.publish))
        assert killed(lambda: folder_to_bin(job(folder, tmp_path / "mine.bin")))
    outcome = folder_to_bin(job(folder, tmp_path / "mine.bin"))
    assert outcome.num_unreadable == expected.num_unreadable == is_broken
    written = contents(tmp_path)
    assert written.get("mine.bin") == written.get("expected.bin")
    assert written.get("mine.bin.unreadable.tsv") == written.get("expected.bin.unreadable.tsv")


def test_the_name_must_end_in_bin(folder, tmp_path):
    with pytest.raises(ValueError, match=r"ends in \.bin"):
        folder_to_bin(job(folder, tmp_path / "mine.dat"))


@pytest.mark.parametrize("source", ["bcolz", "bin"])
def test_golden_sets_become_memory_maps(tmp_path, source):
    """All sets of the folder, with the pixels that its own reader gives."""
    outcomes = sets_to_memmap(job(GOLDEN / source, tmp_path))
    names = ["cfp_fp", "lfw"] if source == "bcolz" else ["lfw_highest", "lfw_p2", "lfw_py2"]
    assert [outcome.text for outcome in outcomes] == [f"{tmp_path / name}: 4 pairs" for name in names]
    for name in names:
        path = GOLDEN / source / (name if source == "bcolz" else f"{name}.bin")
        expected = load_benchmark(path, name, cache=tmp_path / "cache", progress=False)
        benchmark = read_folder(tmp_path / name, name)
        np.testing.assert_array_equal(benchmark.images, expected.images)
        np.testing.assert_array_equal(benchmark.issame, expected.issame)
        assert benchmark.source == expected.source
    if source == "bin":
        np.testing.assert_array_equal(benchmark.images, load_benchmark(GOLDEN / "bcolz", "lfw", tmp_path).images)


def test_finished_sets_are_kept_and_others_are_made(tmp_path):
    images = draw_images(4)
    write_bin(tmp_path / "in/one.bin", images, [True, False])
    sets_to_memmap(job(tmp_path / "in", tmp_path / "sets"))
    before = (tmp_path / "sets/one/images.npy").stat().st_mtime_ns
    write_bcolz(tmp_path / "in/two", normalized(images), [True, False])
    texts = [outcome.text for outcome in sets_to_memmap(job(tmp_path / "in", tmp_path / "sets"))]
    assert "complete already" in texts[0] and "2 pairs" in texts[1]
    assert (tmp_path / "sets/one/images.npy").stat().st_mtime_ns == before
    # Of another source, it is replaced only where that is asked for.
    write_bin(tmp_path / "in/one.bin", images[::-1], [True, False])
    with pytest.raises(ValueError, match="another source; give --overwrite"):
        sets_to_memmap(job(tmp_path / "in", tmp_path / "sets"))
    sets_to_memmap(job(tmp_path / "in", tmp_path / "sets", overwrite=True))
    np.testing.assert_array_equal(read_folder(tmp_path / "sets/one", "one").images, images[::-1])
    (tmp_path / "sets/two/images.npy").unlink()
    with pytest.raises(ValueError, match="no benchmark set"):
        sets_to_memmap(job(tmp_path / "in", tmp_path / "sets", overwrite=True))


def test_a_killed_set_is_made_again(tmp_path, monkeypatch):
    write_bin(tmp_path / "one.bin", draw_images(8), [True, False] * 2)
    with monkeypatch.context() as patch:
        patch.setattr("datasets.benchmarks.bin_file.decode_image", kill_at(3, lambda *args: draw_images(2)[0]))
        assert killed(lambda: sets_to_memmap(job(tmp_path / "one.bin", tmp_path / "sets")))
    assert not (tmp_path / "sets/one").exists()
    sets_to_memmap(job(tmp_path / "one.bin", tmp_path / "sets"))
    np.testing.assert_array_equal(read_folder(tmp_path / "sets/one", "one").images, draw_images(8))
    assert [path.name for path in (tmp_path / "sets").iterdir()] == ["one"]


def test_a_damaged_set_names_its_image_and_leaves_nothing(tmp_path):
    content = ([b"broken"] * 2, [True])
    (tmp_path / "one.bin").write_bytes(pickle.dumps(content))
    with pytest.raises(ValueError, match=r"one\.bin, image 0 at byte"):
        sets_to_memmap(job(tmp_path / "one.bin", tmp_path / "sets"))
    assert list((tmp_path / "sets").iterdir()) == []


def test_sets_that_differ_by_case_only_are_refused(tmp_path):
    for name in ("LFW", "lfw"):
        write_bin(tmp_path / f"in/{name}.bin", draw_images(4), [True, False])
    with pytest.raises(ValueError, match="'LFW' and 'lfw' differ by case only"):
        sets_to_memmap(job(tmp_path / "in", tmp_path / "sets"))
    assert not (tmp_path / "sets").exists()


@pytest.mark.parametrize("name", ["../up", "a/b", ".hidden", ""])
def test_names_that_climb_are_refused(tmp_path, name):
    write_bin(tmp_path / "one.bin", draw_images(4), [True, False])
    with pytest.raises(ValueError, match="benchmark name"):
        sets_to_memmap(job(tmp_path / "one.bin", tmp_path / "sets"), name=name)
    assert not (tmp_path / "sets").exists()


def test_one_name_is_for_one_set(tmp_path):
    with pytest.raises(ValueError, match="a single set only"):
        sets_to_memmap(job(GOLDEN / "bin", tmp_path / "sets"), name="lfw")


def test_a_bin_file_comes_before_a_folder_of_its_name(tmp_path):
    shutil.copytree(GOLDEN / "bcolz", tmp_path / "in")
    write_bin(tmp_path / "in/lfw.bin", draw_images(4), [True, False])
    texts = [outcome.text for outcome in sets_to_memmap(job(tmp_path / "in", tmp_path / "sets"))]
    assert sum("lfw: 2 pairs" in text for text in texts) == 1 and len(texts) == 2


def test_bytes_of_any_content_are_read_back(tmp_path, folder):
    """The opcodes are written by hand: our own reader and pickle agree on them."""
    folder_to_bin(job(folder, tmp_path / "mine.bin"))
    stream = read_bin(tmp_path / "mine.bin")
    bins, _ = pickle.loads((tmp_path / "mine.bin").read_bytes())
    for image, data in zip(stream.images, bins, strict=True):
        np.testing.assert_array_equal(image, read_rgb(data))
    assert contents(tmp_path)["mine.bin"].startswith(b"\x80\x03")


@pytest.mark.parametrize("name", ["my set", "m\u00e9", "-x", "a:b"])
def test_a_set_whose_folder_cannot_name_it_is_converted_under_another_name(folder, tmp_path, name):
    source = folder.rename(tmp_path / name)
    with pytest.raises(ValueError, match=r"benchmark name .*; rename it, or convert it with --to memmap --set-name"):
        sets_to_memmap(job(source, tmp_path / "sets"))
    sets_to_memmap(job(source, tmp_path / "sets"), name="mine")
    assert [path.name for path in (tmp_path / "sets").iterdir()] == ["mine"]
