import pickle
import random
import struct
from pathlib import Path

import numpy as np
import pytest
import record_files
from hypothesis import given, settings
from hypothesis import strategies as st

from datasets.records.format import RecordError, encode_record, read_payload, read_record

PATH = Path("some.rec")
MAGIC = record_files.MAGIC
MAGIC_FLOAT = struct.unpack("<f", MAGIC)[0]
IDS = st.sampled_from([0, 7, 0xCED7230A, 0xCED7230A << 32, 2**64 - 1])
LABEL_VALUES = st.sampled_from([0.0, 3.0, -1.5, MAGIC_FLOAT])
LABELS = st.one_of(LABEL_VALUES, st.lists(LABEL_VALUES, min_size=1, max_size=4))
PAYLOADS = st.lists(st.sampled_from([MAGIC, MAGIC[:3], MAGIC[1:], b"a", b"\0\0\0\0"]), max_size=9).map(b"".join)


@settings(max_examples=300)
@given(LABELS, PAYLOADS, IDS, IDS)
def test_records_are_cut_at_magic_words_and_read_back(label, payload, id, id2):
    framed = encode_record(label, payload, id, id2)
    assert framed == record_files.record(label, payload, id, id2)
    before = record_files.part(0, bytes(24))
    record = read_record(before + framed + before, len(before), PATH)
    assert record.payload == payload and (record.id, record.id2) == (id, id2)
    assert record.label.dtype == np.float32 and record.label.shape == np.shape(label)
    assert np.array_equal(record.label, np.float32(label))
    assert encode_record(*record) == framed


@settings(max_examples=300)
@given(st.lists(st.sampled_from([MAGIC, MAGIC[:2], b"\0", bytes([2, 0, 0, 0x20]), b"\xff\xff\xff\xff"]), max_size=14))
def test_any_bytes_are_a_record_or_one_clear_line(pieces):
    data = b"".join(pieces)
    for offset in range(-4, len(data) + 4):
        try:
            read_record(data, offset, PATH)
        except RecordError as error:
            assert str(error).startswith("some.rec, byte ") and "\n" not in str(error)


def test_an_empty_list_of_labels_is_written_as_the_number_0():
    assert encode_record([], b"abc", 5) == record_files.record(0.0, b"abc", 5)


def good():
    return record_files.record(1.0, b"abcdefgh" + MAGIC + b"12345678" + MAGIC + b"x")


@pytest.mark.parametrize(
    ("data", "offset", "place", "reason"),
    [
        (good()[:-4], 0, 56, "a part of 1 bytes does not fit the file of 64 bytes"),
        (good()[:57], 0, 56, "no part of a record can begin here"),
        (good()[:40], 0, 40, "no part of a record can begin here"),
        (good(), 40, 40, "no record begins here, but a part of kind 2"),
        (good(), 56, 56, "no record begins here, but a part of kind 3"),
        (good(), 8, 8, "expected the magic word 0xced7230a, got 0x00000000"),
        (good(), 2, 2, "no part of a record can begin here"),
        (good(), 400, 400, "no part of a record can begin here"),
        (good(), -4, -4, "no part of a record can begin here"),
        (good()[:40] + record_files.record(0, b""), 0, 40, "the record from byte 0 on lacks its continuation"),
        (record_files.part(5, bytes(24)), 0, 0, "a part's kind is 0 to 3, got 5"),
        (record_files.part(1, bytes(25)) + record_files.part(3, b""), 0, 0, "cut at multiples of 4 bytes"),
        (MAGIC + b"\xff\xff\xff\x1f" + bytes(24), 0, 0, "a part of 536870911 bytes does not fit the file of 32 bytes"),
        (record_files.part(0, bytes(20)), 0, 0, "a record of 20 bytes, a header has 24"),
        (record_files.part(0, b"\xff" * 4 + bytes(24)), 0, 0, "a record of 28 bytes promises 4294967295 labels"),
    ],
)
def test_a_damaged_record_is_named_with_file_and_offset(data, offset, place, reason):
    with pytest.raises(RecordError, match=reason) as caught:
        read_record(data, offset, PATH)
    error = caught.value
    assert str(error).startswith(f"some.rec, byte {place}: ") and "\n" not in str(error)
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_parts_that_add_up_to_more_than_a_record_can_have_are_refused(monkeypatch):
    monkeypatch.setattr("datasets.records.format.MAX_LENGTH", 40)
    with pytest.raises(RecordError, match="byte 0: the parts of this record exceed 40 bytes"):
        read_record(good(), 0, PATH)
    with pytest.raises(ValueError, match="at most 40 bytes, got 41"):
        encode_record(0, bytes(17))


def test_ids_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"ids must be in \[0, 2\*\*64\), got -1"):
        encode_record(0, b"", -1)


def outcome(reader, buffer, offset):
    try:
        return bytes(reader(buffer, offset, PATH))
    except RecordError as error:
        return str(error)


@pytest.mark.parametrize("seed", range(40))
def test_a_payload_alone_is_that_of_the_whole_record_and_damage_is_named_alike(seed):
    rng = random.Random(seed)
    records = [
        encode_record(0.0, rng.randbytes(13), 1),
        encode_record([1.0, 2.0], MAGIC * 2 + b"x", 2),
        encode_record(3.0, b""),
        encode_record(4.0, rng.randbytes(8)),
    ]
    data = bytearray(bytes(seed % 3) + b"".join(records))
    for _ in range(seed % 4):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    buffer = bytes(data[: len(data) - seed % 3 * 5])
    for offset in range(-4, len(buffer) + 5):
        whole = outcome(lambda *args: read_record(*args).payload, buffer, offset)
        assert outcome(read_payload, buffer, offset) == whole
    if seed % 12 == 0:  # nothing before, nothing damaged, nothing cut off
        assert outcome(read_payload, buffer, len(records[0])) == MAGIC * 2 + b"x"
