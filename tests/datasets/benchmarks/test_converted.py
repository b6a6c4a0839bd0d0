import hashlib
import logging
import os
import pickle
import resource
import shutil
import subprocess
from collections import namedtuple

import numpy as np
import pytest
from benchmark_sets import assert_one_line, draw_images, listing, normalize, write_bcolz, write_bin

from datasets import Benchmark, find_benchmarks, load_benchmark, save_benchmark
from datasets.benchmarks import bin_file as bin_module
from datasets.benchmarks import converted as converted_module


@pytest.fixture
def data(tmp_path):
    """Return a folder with `lfw.bin` of 4 images."""
    write_bin(tmp_path / "data" / "lfw.bin", draw_images(), [True, False])
    return tmp_path / "data"


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


def finished(cache):
    """Return what lies in the cache of benchmarks, hidden leftovers included."""
    return sorted(path.name for path in (cache / "benchmarks").iterdir()) if cache.exists() else []


def test_a_set_is_converted_once_mapped_and_never_beside_its_source(data, cache, monkeypatch):
    first = load_benchmark(data, "lfw", cache)
    monkeypatch.setattr(converted_module, "write_folder", None)  # would fail if it were called again
    monkeypatch.setattr(bin_module, "load_plain", None)
    for given in (data, data / "lfw.bin", str(data)):
        again = load_benchmark(given, "lfw", cache)
        assert isinstance(again.images, np.memmap) and not again.images.flags.writeable
        np.testing.assert_array_equal(again.images, draw_images())
        assert again.issame.tolist() == [True, False] and again.source == first.source
    assert listing(data) == ["lfw.bin"] and len(finished(cache)) == 1


def test_the_cache_is_the_users_unless_another_is_named(data, tmp_path, monkeypatch):
    monkeypatch.setenv("MASKWISE_CACHE", str(tmp_path / "users"))
    load_benchmark(data, "lfw")
    assert len(finished(tmp_path / "users")) == 1


def test_the_source_of_a_file_is_its_sha256(data, cache):
    benchmark = load_benchmark(data, "lfw", cache)
    assert benchmark.source == f"sha256:{hashlib.sha256((data / 'lfw.bin').read_bytes()).hexdigest()}"
    assert benchmark.source != benchmark.checksum()


def test_the_source_of_a_folder_is_that_of_what_sha256sum_prints(data, cache):
    write_bcolz(data / "set", normalize(draw_images()), [True, False])
    names = sorted(["set_list.npy", "set/meta/sizes", "set/meta/storage", "set/data/__0.blp", "set/data/__1.blp"])
    printed = subprocess.run(["sha256sum", *names], cwd=data, capture_output=True, check=True).stdout
    assert load_benchmark(data, "set", cache).source == f"sha256:{hashlib.sha256(printed).hexdigest()}"


def test_the_source_stays_with_a_saved_set(data, cache, tmp_path):
    benchmark = load_benchmark(data, "lfw", cache)
    saved = load_benchmark(save_benchmark(benchmark, tmp_path / "own"), "lfw")
    assert saved.source == benchmark.source == pickle.loads(pickle.dumps(saved)).source
    own = Benchmark(benchmark.images, benchmark.issame, "lfw")
    assert own.source is None and load_benchmark(save_benchmark(own, tmp_path / "own"), "lfw").source is None
    (tmp_path / "own" / "lfw" / "source.txt").write_text("sha256:abc")
    with pytest.raises(ValueError, match=r"own/lfw: benchmark lfw: source must be 'sha256:' and 64 digits, got"):
        load_benchmark(tmp_path / "own", "lfw")


def rewrite(file, images, keep_time):
    status = file.stat()
    write_bin(file, images, [False, True])
    if keep_time:
        os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.parametrize("keep_time", [False, True])
def test_a_changed_file_is_converted_again(data, cache, keep_time):
    first = load_benchmark(data, "lfw", cache)
    images = draw_images()[::-1]  # the same size
    rewrite(data / "lfw.bin", images, keep_time)
    second = load_benchmark(data, "lfw", cache)
    np.testing.assert_array_equal(second.images, images)
    np.testing.assert_array_equal(first.images, draw_images())  # a run that goes on keeps what it opened
    assert second.source != first.source


@pytest.mark.parametrize("name", ["data/__1.blp", "meta/storage", "../set_list.npy"])
def test_a_change_in_any_file_of_a_folder_is_noticed(data, cache, name):
    write_bcolz(data / "set", normalize(draw_images()), [True, False])
    load_benchmark(data, "set", cache)
    file = data / "set" / name
    os.utime(file, ns=(0, file.stat().st_mtime_ns + 1))
    load_benchmark(data, "set", cache)
    assert len(finished(cache)) == 2


def test_a_damaged_copy_is_made_again(data, cache, caplog):
    load_benchmark(data, "lfw", cache)
    (copy,) = cache.rglob("images.npy")
    copy.unlink()
    copy.write_bytes(b"damaged")
    np.testing.assert_array_equal(load_benchmark(data, "lfw", cache).images, draw_images())
    assert "it is made again" in caplog.text and len(finished(cache)) == 1


def check_memory(benchmark, caplog, reason):
    np.testing.assert_array_equal(benchmark.images, draw_images())
    assert not isinstance(benchmark.images, np.memmap) and benchmark.source.startswith("sha256:")
    (record,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert_one_line(record.getMessage(), "cannot cache benchmark lfw", reason, "it stays in memory")


def test_a_disk_that_fills_up_leaves_the_set_in_memory_and_nothing_on_disk(data, cache, caplog):
    # A limit on the size of files fails as a full disk does, for root too: in the middle of the images.
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        benchmark = load_benchmark(data, "lfw", cache)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    check_memory(benchmark, caplog, "File too large")
    assert finished(cache) == []


def test_a_disk_without_room_is_not_even_begun(data, cache, caplog, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 10**9, 100_000))
    check_memory(load_benchmark(data, "lfw", cache), caplog, "150528 bytes are needed and 100000 are free")
    assert finished(cache) == []


def test_a_cache_that_is_no_folder_leaves_the_set_in_memory(data, cache, caplog):
    cache.write_text("")
    check_memory(load_benchmark(data, "lfw", cache), caplog, "Not a directory")


def test_a_cache_without_permission_leaves_the_set_in_memory(data, cache, caplog, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.mkdtemp", refuse)  # root may write everywhere
    check_memory(load_benchmark(data, "lfw", cache), caplog, "Permission denied")


def test_what_fits_neither_disk_nor_memory_is_refused(data, cache, monkeypatch):
    cache.write_text("")
    monkeypatch.setattr(converted_module, "_MAX_MEMORY", 100_000)
    with pytest.raises(ValueError, match="4 images are too large for the memory; set MASKWISE_CACHE to a folder with"):
        load_benchmark(data, "lfw", cache)


def test_more_images_than_any_set_has_are_refused_before_they_are_decoded(data, cache, monkeypatch):
    monkeypatch.setattr(converted_module, "_MAX_IMAGES", 3)
    monkeypatch.setattr(bin_module, "decode_image", None)
    with pytest.raises(ValueError, match=r"lfw\.bin: 4 images; at most 3 are read"):
        load_benchmark(data, "lfw", cache)
    assert finished(cache) == []


def test_an_interrupted_conversion_leaves_nothing(data, cache, monkeypatch):
    decode = bin_module.decode_image
    calls = []

    def interrupt(*arguments):
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return decode(*arguments)

    monkeypatch.setattr(bin_module, "decode_image", interrupt)
    with pytest.raises(KeyboardInterrupt):
        load_benchmark(data, "lfw", cache)
    assert finished(cache) == []


def test_ranks_that_convert_at_once_share_one_copy(data, cache, monkeypatch):
    decode = bin_module.decode_image

    def slow(*arguments):
        # Another rank starts and finishes while this one is still decoding.
        monkeypatch.setattr(bin_module, "decode_image", decode)
        load_benchmark(data, "lfw", cache)
        return decode(*arguments)

    monkeypatch.setattr(bin_module, "decode_image", slow)
    np.testing.assert_array_equal(load_benchmark(data, "lfw", cache).images, draw_images())
    assert len(finished(cache)) == 1


def test_workers_get_the_path_of_the_copy(data, cache):
    benchmark = load_benchmark(data, "lfw", cache)
    sent = pickle.dumps(benchmark)
    assert len(sent) < 2000
    np.testing.assert_array_equal(pickle.loads(sent).images, draw_images())


def test_our_own_layout_comes_first_then_bin_then_bcolz(data, cache):
    def answers():
        return load_benchmark(data, "lfw", cache).issame.tolist()

    write_bcolz(data / "lfw", normalize(draw_images()), [False, False])
    assert answers() == [True, False]
    (data / "lfw.bin").unlink()
    assert answers() == [False, False]
    np.save(data / "lfw" / "images.npy", draw_images())
    np.save(data / "lfw" / "issame.npy", np.array([True, True]))
    assert answers() == [True, True]


def test_sets_of_all_formats_are_found_by_name(data, cache):
    issame = np.array([True, False, True, False])
    write_bcolz(data / "cfp_fp", normalize(draw_images(8)), issame)
    save_benchmark(Benchmark(draw_images(8), ~issame, "cplfw"), data)
    for name in ("lfw", "other"):
        write_bin(data / f"{name}.bin", draw_images(8), issame)
    present, missing = find_benchmarks(data, cache)
    assert {name: len(benchmark) for name, benchmark in present.items()} == {"lfw": 4, "cfp_fp": 4, "cplfw": 4}
    assert missing == ["agedb_30", "calfw"]


def test_a_damaged_set_is_not_taken_for_a_missing_one(data, cache):
    (data / "calfw.bin").write_bytes(b"damaged")
    with pytest.raises(ValueError, match=r"calfw\.bin, byte 0"):
        find_benchmarks(data, cache)


def test_a_name_that_is_nowhere_is_answered_with_the_formats(data, cache):
    with pytest.raises(ValueError) as caught:
        load_benchmark(data, "cfp_fp", cache)
    assert_one_line(caught.value, str(data), "cfp_fp/images.npy", "cfp_fp.bin", "cfp_fp_list.npy", "pairs.txt")


@pytest.mark.parametrize("name", ["../lfw", "..", "/etc/passwd", "a/b"])
def test_names_that_climb_are_refused(data, cache, name):
    with pytest.raises(ValueError, match="benchmark name"):
        load_benchmark(data, name, cache)
