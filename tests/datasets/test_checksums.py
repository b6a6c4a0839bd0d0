"""One changed byte anywhere in a set that carries checksums is found when the set is opened."""

import json
import shutil
import time
import zlib

import numpy as np
import pytest
from benchmark_sets import assert_one_line, draw_images, write_bin
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from datasets import Benchmark, load_benchmark, save_benchmark
from datasets.benchmarks.cache import cache_benchmark
from datasets.checksums import CHECKSUMS, verify, write_checksums
from datasets.faces.image_folder import ImageFolderDataset

FIELDS = ["images.npy", "issame.npy", "folds.npy", "identities.npy", "source.txt", "checksums.json"]


@pytest.fixture
def saved(tmp_path):
    source = "sha256:" + "0" * 64
    issame = np.array([True, False])
    return save_benchmark(Benchmark(draw_images(), issame, "lfw", np.array([0, 1]), np.arange(4), source), tmp_path)


def flip(file, place):
    """Change one bit of a file; a copy takes its place, because the file may be mapped."""
    data = bytearray(file.read_bytes())
    data[place % len(data)] ^= 1
    file.unlink()
    file.write_bytes(data)


@given(name=st.sampled_from(FIELDS), place=st.integers(0, 2**20))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_flipped_byte_of_a_saved_set_is_refused_with_its_file(saved, name, place):
    intact = (saved / name).read_bytes()
    flip(saved / name, place)
    with pytest.raises(ValueError, match="lfw/") as caught:
        load_benchmark(saved, "lfw")
    assert_one_line(caught.value, str(saved), "write the set again")
    (saved / name).unlink()
    (saved / name).write_bytes(intact)
    load_benchmark(saved, "lfw")


@pytest.mark.parametrize("name", FIELDS[:-1])
@pytest.mark.parametrize("edit", [lambda data: data[:-1], lambda data: data + b"0", None])
def test_a_shorter_longer_or_missing_file_is_refused(saved, name, edit):
    data = (saved / name).read_bytes()
    (saved / name).unlink()
    if edit is not None:
        (saved / name).write_bytes(edit(data))
    with pytest.raises(ValueError, match="lfw/"):
        load_benchmark(saved, "lfw")


def test_zeroed_and_swapped_blocks_are_found(tmp_path):
    data = np.random.default_rng(0).integers(0, 256, 3 * 2**22 + 5, dtype=np.uint8)
    np.save(tmp_path / "x.npy", data)
    write_checksums(tmp_path)
    verify(tmp_path)
    blocks = data[: 3 * 2**22].reshape(3, -1)
    for damaged in (blocks[[1, 0, 2]], blocks * np.array([[1], [0], [1]], np.uint8)):
        np.save(tmp_path / "x.npy", np.append(damaged.ravel(), data[3 * 2**22 :]))
        with pytest.raises(ValueError, match=r"x\.npy: damaged between byte"):
            verify(tmp_path)


@pytest.mark.parametrize(
    "text", ["", "[]", "{", "[1]", '{"a": 1}', '{"a": [1, 2]}', '{"a": [1, ["x"]]}', "null", "[" * 10**5]
)
def test_checksums_that_are_none_are_damage(saved, text):
    (saved / "checksums.json").write_text(text)
    with pytest.raises(ValueError, match="lfw/"):
        load_benchmark(saved, "lfw")


def test_a_set_of_the_users_own_needs_no_checksums_and_may_be_changed(saved):
    (saved / "checksums.json").unlink()
    np.save(saved / "issame.npy", np.array([False, True]))
    assert load_benchmark(saved, "lfw").issame.tolist() == [False, True]


@pytest.mark.parametrize("name", ["images.npy", "issame.npy", "source.txt", "checksums.json"])
@pytest.mark.parametrize("is_there", [True, False])
def test_a_damaged_copy_in_the_cache_is_named_and_made_again(tmp_path, caplog, name, is_there):
    write_bin(tmp_path / "lfw.bin", draw_images(), [True, False])
    cache = tmp_path / "cache"
    expected = load_benchmark(tmp_path, "lfw", cache)
    (file,) = cache.rglob(name)
    if is_there:
        flip(file, 3000)
    else:
        file.unlink()
    again = load_benchmark(tmp_path, "lfw", cache)
    np.testing.assert_array_equal(again.images, draw_images())
    assert again.issame.tolist() == [True, False] and again.source == expected.source
    (message,) = [record.getMessage() for record in caplog.records]
    assert_one_line(message, "it is made again", str(file))
    verify(file.parent)


@pytest.mark.parametrize("name", ["images.npy", "issame.npy", "folds.npy", "identities.npy"])
def test_a_damaged_copy_of_held_out_identities_is_made_again(tmp_path, make_folder, caplog, name):
    dataset = ImageFolderDataset(make_folder([3, 3, 3]))
    expected = cache_benchmark(dataset, cache=tmp_path / "cache")
    (file,) = (tmp_path / "cache").rglob(name)
    flip(file, -1)
    again = cache_benchmark(dataset, cache=tmp_path / "cache")
    assert again.checksum() == expected.checksum() and "it is made again" in caplog.text
    np.testing.assert_array_equal(again.folds, expected.folds)
    np.testing.assert_array_equal(again.identities, expected.identities)


@pytest.mark.slow
def test_the_usual_set_is_compared_at_a_gigabyte_a_second(tmp_path):
    images = np.zeros((12_000, 112, 112, 3), np.uint8)
    folder = save_benchmark(Benchmark(images, np.arange(6000) % 2 == 0, "lfw"), tmp_path)
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        load_benchmark(folder, "lfw")
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < images.nbytes / 1e9
    shutil.rmtree(folder)


def test_a_name_that_is_none_is_refused_with_it(saved):
    files = {"a\0b": [1, [1]]}
    (saved / CHECKSUMS).write_text(json.dumps({"files": files, "crc32": zlib.crc32(json.dumps(files).encode())}))
    with pytest.raises(ValueError, match="cannot be read") as caught:
        verify(saved)
    assert str(saved) in str(caught.value)
