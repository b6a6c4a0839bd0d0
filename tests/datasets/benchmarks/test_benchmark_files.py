import os
import pickle
import re

import numpy as np
import pytest
from benchmark_sets import write_bin

from datasets import BENCHMARKS, Benchmark, find_benchmarks, load_benchmark, save_benchmark


def make(num_pairs=4, name="lfw", **fields):
    images = np.random.default_rng(0).integers(0, 256, (2 * num_pairs, 112, 112, 3), dtype=np.uint8)
    return Benchmark(images, np.arange(num_pairs) % 2 == 0, name, **fields)


def assert_equal(loaded, saved):
    assert loaded.name == saved.name and len(loaded) == len(saved)
    for field in ("images", "issame", "folds", "identities"):
        first, second = getattr(loaded, field), getattr(saved, field)
        assert (first is None) == (second is None)
        if first is not None:
            np.testing.assert_array_equal(first, second)
            assert first.dtype == second.dtype


@pytest.mark.parametrize("fields", [{}, {"folds": np.array([0, 0, 1, 1]), "identities": np.arange(8)}])
def test_a_saved_set_is_mapped_again(tmp_path, fields):
    saved = make(**fields)
    folder = save_benchmark(saved, tmp_path)
    assert folder == tmp_path / "lfw"
    for loaded in (load_benchmark(tmp_path, "lfw"), load_benchmark(folder, "lfw"), load_benchmark(str(folder), "lfw")):
        assert_equal(loaded, saved)
        assert isinstance(loaded.images, np.memmap) and not loaded.images.flags.writeable
    assert [path.name for path in tmp_path.iterdir()] == ["lfw"]


def test_saving_again_replaces_the_set_also_from_its_own_map(tmp_path):
    save_benchmark(make(folds=np.array([0, 0, 1, 1])), tmp_path)
    second = make(3)
    save_benchmark(second, tmp_path)
    loaded = load_benchmark(tmp_path, "lfw")
    assert_equal(loaded, second)
    save_benchmark(loaded, tmp_path)
    assert_equal(load_benchmark(tmp_path, "lfw"), second)
    assert [path.name for path in tmp_path.iterdir()] == ["lfw"]


def test_a_failed_save_leaves_the_old_set_and_nothing_else(tmp_path, monkeypatch):
    old = make()
    save_benchmark(old, tmp_path)

    def full(descriptor):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            save_benchmark(make(2), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["lfw"]
    assert_equal(load_benchmark(tmp_path, "lfw"), old)


def test_a_mapped_set_pickles_as_its_path(tmp_path):
    saved = make()
    loaded = load_benchmark(save_benchmark(saved, tmp_path), "lfw")
    data = pickle.dumps(loaded)
    assert len(data) < 2000 < len(pickle.dumps(saved))
    assert_equal(pickle.loads(data), saved)
    assert_equal(pickle.loads(pickle.dumps(saved)), saved)
    # Part of a map is not the file: it has to travel whole.
    part = Benchmark(loaded.images[2:4], loaded.issame[:1], "lfw")
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(part)).images, saved.images[2:4])


def test_the_present_sets_are_found_in_the_usual_order(tmp_path):
    for name in ("cplfw", "lfw", "other"):
        save_benchmark(make(name=name), tmp_path)
    (tmp_path / "calfw").mkdir()
    present, missing = find_benchmarks(tmp_path)
    assert list(present) == ["lfw", "cplfw"] and missing == ["cfp_fp", "agedb_30", "calfw"]
    assert present["cplfw"].name == "cplfw"
    assert find_benchmarks(tmp_path / "nowhere") == ({}, list(BENCHMARKS))


def test_a_set_that_is_not_there_is_named(tmp_path):
    with pytest.raises(
        ValueError, match=rf"no benchmark 'lfw' in {re.escape(str(tmp_path))}; expected lfw/images\.npy"
    ):
        load_benchmark(tmp_path, "lfw")


@pytest.mark.parametrize("name", ["", "..", "../x", "a/b", ".hidden", "-x", "a b"])
def test_names_that_are_no_file_names_are_refused(tmp_path, name):
    with pytest.raises(ValueError, match="benchmark name"):
        load_benchmark(tmp_path, name)
    with pytest.raises(ValueError, match="benchmark name"):
        make(name=name)


def write(folder, **arrays):
    folder.mkdir(parents=True)
    valid = {"images": np.zeros((4, 112, 112, 3), np.uint8), "issame": np.array([True, False])}
    for field, array in {**valid, **arrays}.items():
        np.save(folder / f"{field}.npy", array)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": np.zeros((4, 112, 112, 3), np.float32)}, r"images must be uint8 .* got float32 \[4, 112, 112, 3\]"),
        ({"images": np.zeros((4, 3, 112, 112), np.uint8)}, r"got uint8 \[4, 3, 112, 112\]"),
        ({"images": np.zeros((3, 112, 112, 3), np.uint8)}, "two images a pair are needed, got 3"),
        ({"images": np.zeros((6, 112, 112, 3), np.uint8)}, r"issame must be bool \[3\] for 6 images, got bool \[2\]"),
        ({"issame": np.array([1, 0])}, r"issame must be bool \[2\].* got int64"),
        ({"folds": np.array([0, 1, 2])}, r"folds must be integers >= 0 \[2\], got int64 \[3\]"),
        ({"folds": np.array([0, -1])}, "from -1"),
        ({"folds": np.array([0.0, 1.0])}, "got float64"),
        ({"identities": np.array([[0, 1], [2, 3]])}, r"identities must be integers >= 0 \[4\], got int64 \[2, 2\]"),
    ],
)
def test_files_that_do_not_fit_are_refused(tmp_path, arrays, message):
    write(tmp_path / "lfw", **arrays)
    with pytest.raises(ValueError, match=message) as caught:
        load_benchmark(tmp_path, "lfw")
    assert str(tmp_path / "lfw") in str(caught.value) and "\n" not in str(caught.value)


class Trap:
    def __reduce__(self):
        return (os.mkdir, ("trapped",))


def lying_header():
    shape = "(99999999999, 112, 112, 3)"
    header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode()


@pytest.mark.parametrize("field", ["images", "issame", "folds"])
@pytest.mark.parametrize(
    "content",
    [b"", b"\x93NUMPY", b"garbage" * 50, lying_header(), pickle.dumps(Trap())],
    ids="0 cut junk lie code".split(),
)
def test_damaged_files_are_refused_and_run_nothing(tmp_path, monkeypatch, field, content):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "lfw", folds=np.array([0, 1]))
    (tmp_path / "lfw" / f"{field}.npy").write_bytes(content)
    with pytest.raises(ValueError, match=rf"{field}\.npy: not an array file") as caught:
        load_benchmark(tmp_path, "lfw")
    assert "\n" not in str(caught.value) and not (tmp_path / "trapped").exists()


def test_a_cut_off_file_and_an_array_of_objects_are_refused(tmp_path):
    write(tmp_path / "lfw")
    file = tmp_path / "lfw" / "images.npy"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"images\.npy: not an array file"):
        load_benchmark(tmp_path, "lfw")
    write(tmp_path / "calfw")
    np.save(tmp_path / "calfw" / "issame.npy", np.array([Trap(), 1], object), allow_pickle=True)
    with pytest.raises(ValueError, match=r"issame\.npy: not an array file"):
        load_benchmark(tmp_path, "calfw")
    assert not (tmp_path / "trapped").exists()


@pytest.mark.parametrize(
    ("issame", "folds", "message"),
    [
        ([True] * 12, None, "12 genuine and 0 impostor pairs"),
        ([False] * 5, None, "0 genuine and 5 impostor pairs"),
        ([True, False, False], None, "1 genuine and 2 impostor pairs"),
        ([True], None, "1 genuine and 0 impostor pairs"),
        ([True, True, False, False], [3, 3, 3, 3], "all pairs are in one fold"),
        ([True, True, False, False], [1, 1, 200, 200], "fold 1 holds 2 genuine pairs alone"),
        ([True, False, False, True, False], [0, 0, 1, 2, 2], "fold 1 holds 1 impostor pairs alone"),
    ],
)
@pytest.mark.parametrize("suffix", ["", ".bin"])
def test_a_set_on_which_nothing_can_be_measured_is_refused_with_its_file(tmp_path, issame, folds, message, suffix):
    images = np.zeros((2 * len(issame), 112, 112, 3), np.uint8)
    if suffix:
        if folds is not None:
            pytest.skip("a .bin file states no folds")
        write_bin(tmp_path / "lfw.bin", images, issame)
    else:
        save_benchmark(Benchmark(images, np.array(issame), "lfw", None if folds is None else np.array(folds)), tmp_path)
    with pytest.raises(ValueError, match=f"{re.escape(str(tmp_path))}/lfw{suffix}: {message}") as caught:
        find_benchmarks(tmp_path, tmp_path / "cache")
    assert "\n" not in str(caught.value)
    assert load_benchmark(tmp_path, "lfw", tmp_path / "cache").issame.tolist() == issame


@pytest.mark.parametrize("name", ["LFW", "AgeDB-30", "agedb30.bin", "CFP-FP", "calfw"])
def test_what_has_the_name_of_a_set_and_is_none_is_told(tmp_path, name, caplog):
    (tmp_path / name).mkdir()
    (tmp_path / "people").mkdir()
    assert find_benchmarks(tmp_path)[0] == {}
    (message,) = caplog.messages
    assert message.startswith(f"{tmp_path}: {name} is not validated: a set is called ")


def test_identities_that_contradict_the_answers_are_refused_before_training(tmp_path):
    images, issame = np.zeros((8, 112, 112, 3), np.uint8), np.array([True, False, True, False])
    write(tmp_path / "lfw", images=images, issame=issame, identities=np.array([5, 5, 6, 6, 2**62, 2**62, 0, 1]))
    with pytest.raises(
        ValueError, match=r"lfw: identities and issame contradict each other in 1 pairs, first in pair 1"
    ):
        find_benchmarks(tmp_path)


def test_images_in_another_order_in_memory_are_the_same_set(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (4, 112, 112, 3), np.uint8)
    write(tmp_path / "lfw", images=np.asfortranarray(images))
    write(tmp_path / "calfw", images=images)
    checksums = {load_benchmark(tmp_path, name).checksum() for name in ("lfw", "calfw")}
    assert len(checksums) == 1


@pytest.mark.parametrize("name", ["folds.npy", "identities.npy", "source.txt", "checksums.json"])
def test_a_pipe_in_a_set_is_not_waited_for(tmp_path, name):
    write(tmp_path / "lfw")
    os.mkfifo(tmp_path / "lfw" / name)
    with pytest.raises((ValueError, OSError), match=r"a pipe or a device|Invalid") as caught:
        load_benchmark(tmp_path, "lfw")
    assert name in str(caught.value)
