import os
import resource
import struct
import zlib

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from record_files import faces, picture, record, write_records

from datasets.records import dataset as record_module
from datasets.records import sidecar as sidecar_module
from datasets.records.dataset import RecordDataset
from datasets.records.labels import Samples

SIDECAR = "train.maskwise-index"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MASKWISE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "records"


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "data"
    write_records(folder, faces([3, 2]))
    return folder


@pytest.fixture
def searches(monkeypatch):
    """One entry for each time that the samples are searched instead of taken from a sidecar."""
    done, find = [], record_module.find_samples
    monkeypatch.setattr(record_module, "find_samples", lambda *args: done.append(1) or find(*args))
    return done


def names(folder):
    return sorted(path.name for path in folder.rglob("*")) if folder.exists() else []


def check(dataset):
    assert dataset.labels.tolist() == [0, 0, 0, 1, 1] and dataset.keys.tolist() == [1, 2, 3, 4, 5]
    assert dataset.class_names == ["0", "1"]
    assert np.ptp(dataset.read(4)) > 0


def test_the_second_opening_takes_everything_from_the_sidecar(root, cache, searches):
    check(RecordDataset(root))
    assert names(root) == ["train.idx", SIDECAR, "train.rec"] and names(cache) == []
    (root / SIDECAR).chmod(0o444)
    dataset = RecordDataset(root)
    check(dataset)
    assert len(searches) == 1
    # Mapped, so that forked processes share it; a file that lies beside the data is for all who read them.
    assert not dataset.labels.flags.owndata and not dataset.labels.flags.writeable
    assert (root / SIDECAR).stat().st_mode & 0o777 == 0o444


def test_a_new_sidecar_can_be_read_by_others(root):
    RecordDataset(root)
    assert (root / SIDECAR).stat().st_mode & 0o777 == 0o644


def at(position, byte):
    """Replace one byte."""
    return lambda data: data[:position] + byte + data[len(data) + position + 1 if position < 0 else position + 1 :]


# What changes nothing in the samples, so that only the fingerprint can notice it.
CHANGES = [
    ("train.rec", at(16, b"\7")),  # the header record's id
    ("train.rec", at(-17, b"\7")),  # the last record's second id
    ("train.rec", lambda data: data + data[-40:]),
    ("train.idx", at(1, b" ")),
    ("train.idx", at(-1, b" ")),
    ("train.idx", lambda data: data + b"\n"),
    ("train.lst", at(0, b"2")),
    ("train.lst", at(-1, b" ")),
    ("train.lst", lambda data: data + b"\n"),
]


@pytest.mark.parametrize(("name", "edit"), CHANGES)
def test_a_change_of_size_or_at_an_end_of_a_source_is_noticed(root, searches, name, edit):
    (root / "train.lst").write_text("1\ta\t0\n")
    RecordDataset(root)
    path = root / name
    status, data = path.stat(), path.read_bytes()
    path.write_bytes(edit(data))
    assert path.read_bytes() != data
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    for _ in range(2):
        check(RecordDataset(root))
        assert len(searches) == 2


@pytest.mark.parametrize("name", ["train.rec", "train.idx", "train.lst"])
def test_a_source_of_another_time_is_noticed(root, searches, name):
    (root / "train.lst").write_text("1\ta\t0\n")
    RecordDataset(root)
    status = (root / name).stat()
    os.utime(root / name, ns=(status.st_atime_ns, status.st_mtime_ns + 1000))
    check(RecordDataset(root))
    assert len(searches) == 2


def test_files_that_appear_or_go_are_noticed(root, searches):
    RecordDataset(root)
    (root / "train.idx").rename(root / "train.idx.away")
    check(RecordDataset(root))
    (root / "train.lst").write_text("")
    check(RecordDataset(root))
    assert len(searches) == 3


@pytest.fixture
def large(tmp_path):
    """Return the place of a sidecar of several pages, its samples, and what opens it."""
    num = 3000
    samples = Samples(
        np.arange(1, num + 1), np.arange(num) * 48, np.arange(num) // 10, np.arange(num // 10, dtype=np.int64)
    )
    sidecar_module._save(samples, b"s" * 32, tmp_path / "large")
    return tmp_path / "large"


def rewritten(place, data):
    # Never in place: the file may still be mapped.
    place.unlink()
    place.write_bytes(data)
    return sidecar_module._load(place, b"s" * 32, 2**40)


@given(data=st.data())
@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_sidecar_with_any_damage_is_never_used(large, data):
    intact = large.read_bytes()
    pages = [intact[start : start + 4096] for start in range(0, len(intact), 4096)]
    kind = data.draw(st.sampled_from(["flip", "zero", "swap", "cut", "longer"]))
    place = data.draw(st.integers(0, len(intact) - 1))
    first, second = place // 4096, data.draw(st.integers(0, len(pages) - 1))
    match kind:
        case "flip":
            damaged = bytearray(intact)
            damaged[place] ^= data.draw(st.integers(1, 255))
        case "zero":
            damaged = b"".join([*pages[:first], bytes(len(pages[first])), *pages[first + 1 :]])
        case "swap":
            pages[first], pages[second] = pages[second], pages[first]
            damaged = b"".join(pages)
        case "cut":
            damaged = intact[:place]
        case _:
            damaged = intact + bytes(8)
    used = rewritten(large, bytes(damaged))
    assert (used is not None) == (damaged == intact)
    assert rewritten(large, intact) is not None


def test_pages_that_cancel_each_other_out_are_found(large):
    # Words that are equal in number and exclusive-or, in other places.
    words = np.frombuffer(large.read_bytes()[56:], "<i8").copy()
    words[[6000, 6100]] = words[[6100, 6000]]
    assert rewritten(large, large.read_bytes()[:56] + words.tobytes()) is None


def test_a_sidecar_of_the_first_version_is_made_again(root, searches):
    RecordDataset(root)
    intact = (root / SIDECAR).read_bytes()
    words = np.frombuffer(intact[56:], "<i8")
    exclusive_or = int(np.bitwise_xor.reduce(words)) % 2**64
    (root / SIDECAR).write_bytes(struct.pack("<32sqqQ", intact[8:40], 5, 2, exclusive_or) + intact[56:])
    check(RecordDataset(root))
    assert len(searches) == 2 and (root / SIDECAR).read_bytes() == intact


def test_a_damaged_sidecar_is_made_again(root, searches):
    RecordDataset(root)
    intact = (root / SIDECAR).read_bytes()
    damaged = [intact[:length] for length in (0, 10, 56, 57, len(intact) - 8, len(intact) - 1)]
    damaged += [intact + bytes(8), intact[:32] + bytes(24) + intact[56:]]
    for position in range(0, len(intact), 7):
        flipped = bytearray(intact)
        flipped[position] ^= 0x40
        damaged.append(bytes(flipped))
    for number, data in enumerate(damaged, start=2):
        (root / SIDECAR).write_bytes(data)
        check(RecordDataset(root))
        assert len(searches) == number
        assert (root / SIDECAR).read_bytes() == intact


def block(place):
    """Let a folder stand where the sidecar should: nothing can be renamed to it, not even by root."""
    place.mkdir(parents=True)


def test_the_cache_folder_takes_it_where_the_data_cannot_be_written(root, cache, searches):
    block(root / SIDECAR)
    check(RecordDataset(root))
    check(RecordDataset(root))
    assert len(searches) == 1
    assert names(root) == ["train.idx", SIDECAR, "train.rec"]
    (kept,) = names(cache)
    assert kept.startswith("train-") and kept.endswith(".maskwise-index")


def test_equal_names_in_different_folders_do_not_share_the_cache(tmp_path, root, cache):
    other = tmp_path / "other"
    write_records(other, [(key, record(0.0, picture(key))) for key in range(2)])
    for folder in (root, other):
        block(folder / SIDECAR)
    check(RecordDataset(root))
    assert RecordDataset(other).labels.tolist() == [0, 0]
    assert len(names(cache)) == 2


def test_without_any_place_the_samples_stay_in_memory_and_one_line_says_so(root, cache, searches, caplog):
    block(root / SIDECAR)
    cache.parent.write_text("a file, not a folder")
    check(RecordDataset(root))
    check(RecordDataset(root))
    assert len(searches) == 2
    (message, _) = [entry.getMessage() for entry in caplog.records if "cannot keep its index" in entry.getMessage()]
    assert str(root / "train.rec") in message and "\n" not in message


def test_a_full_disk_leaves_no_partial_sidecar(root, cache, searches):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        dataset = RecordDataset(root)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    check(dataset)
    assert names(root) == ["train.idx", "train.rec"] and names(cache) == []
    check(RecordDataset(root))
    assert len(searches) == 2 and names(root) == ["train.idx", SIDECAR, "train.rec"]


@pytest.mark.parametrize("place", ["key", "offset", "odd offset", "label", "negative label"])
def test_numbers_that_cannot_be_are_not_used_whatever_the_checksum_says(tmp_path, place):
    write_records(tmp_path, faces([2, 2]))
    dataset = RecordDataset(tmp_path)
    expected = dataset.labels.tolist(), dataset.offsets.tolist()  # mapped from the file that changes
    sidecar = tmp_path / "train.maskwise-index"
    data = bytearray(sidecar.read_bytes())
    words = np.frombuffer(data, "<i8", offset=sidecar_module._HEAD.size)  # 4 keys, offsets, labels
    word, value = {
        "key": (0, -1),
        "offset": (4, 2**40),
        "odd offset": (4, 7),
        "label": (8, 10**6),
        "negative label": (8, -5),
    }[place]
    words[word] = value
    data[:4] = zlib.crc32(data[4:]).to_bytes(4, "little")
    sidecar.write_bytes(data)
    found = RecordDataset(tmp_path)
    assert (found.labels.tolist(), found.offsets.tolist()) == expected
