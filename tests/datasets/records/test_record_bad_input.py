import os
import random
import struct

import numpy as np
import pytest
from record_files import MAGIC, body, cut, faces, part, picture, record, write_records

from datasets import UnreadableImageError
from datasets.records.dataset import RecordDataset
from datasets.records.format import RecordError


def plain(suffix=".png"):
    return [(key, record(label, picture(key, suffix), key)) for key, label in enumerate((0.0, 1.0, 0.0, 1.0))]


def with_bytes(root, name, edit):
    (root / name).write_bytes(edit((root / name).read_bytes()))


def edit_records(edit, records=plain, index=True):
    """Return a function that writes records, edited as bytes."""

    def make(root):
        write_records(root, records(), index=index)
        with_bytes(root, "train.rec", edit)

    return make


def edit_index(text, records=plain):
    def make(root):
        write_records(root, records())
        (root / "train.idx").write_bytes(text)

    return make


def edit_list(text):
    def make(root):
        write_records(root, plain())
        (root / "train.lst").write_text(text)

    return make


def index_folder(root):
    write_records(root, plain(), index=False)
    (root / "train.idx").mkdir()


def put(position, data):
    return lambda content: content[:position] + data + content[position + len(data) :]


def identities(*ranges):
    return lambda root: write_records(root, faces([2, 2], ranges=list(ranges)))


def header(*labels):
    return lambda root: write_records(root, [(0, record(list(labels), b"")), *faces([2, 2])[1:]])


FIRST = len(record(0.0, picture(0)))  # bytes of the first record
NAN, HALF, MINUS = (struct.pack("<f", value) for value in (float("nan"), 0.5, -1.0))
IDENTITY_4 = sum(len(framed) for key, framed in faces([2, 2]) if key < 5)
UNREADABLE_WHEN_OPENED = [
    ("no folder", lambda root: None, "faces: does not exist"),
    ("no file", lambda root: root.mkdir(), r"faces: expected train\.rec or one other \.rec file, found none"),
    ("a folder as file", lambda root: (root / "train.rec").mkdir(parents=True), r"train\.rec: is not a file"),
    ("empty", edit_records(lambda data: b""), r"train\.rec: 0 bytes are too few for a record"),
    ("a pipe", lambda root: root.mkdir() or os.mkfifo(root / "train.rec"), r"train\.rec: is not a file"),
    ("wrong magic", edit_records(put(0, b"\0")), r"train\.rec, byte 0: expected the magic word 0xced7230a, got"),
    ("kind", edit_records(put(7, b"\xa0")), r"train\.rec, byte 0: a part's kind is 0 to 3, got 5"),
    ("length", edit_records(put(FIRST + 4, b"\xff\xff\xff\x1f")), rf"train\.rec, byte {FIRST}: a part of 536870911"),
    ("continuation", edit_records(put(FIRST + 7, b"\x60")), rf"byte {FIRST}: no record begins here, but a part of"),
    ("no continuation", edit_records(put(7, b"\x20")), r"byte 0: a record is cut at multiples of 4|lacks its"),
    ("many labels", edit_records(put(8, b"\xff\xff\xff\xff")), r"byte 0: a record of \d+ bytes promises 4294967295"),
    ("no label", edit_records(put(FIRST + 12, NAN)), rf"train\.rec, byte {FIRST}: the label nan is not a whole"),
    ("half", edit_records(put(FIRST + 12, HALF)), rf"train\.rec, byte {FIRST}: the label 0\.5 is not a whole"),
    ("negative", edit_records(put(FIRST + 12, MINUS)), rf"train\.rec, byte {FIRST}: the label -1 is not a whole"),
    ("infinite", edit_records(put(12, struct.pack("<f", np.inf))), r"train\.rec, byte 0: the label inf is not"),
    ("scan: cut off", edit_records(lambda data: data[:-5], index=False), r"rec, byte \d+: this part leads to byte \d+"),
    ("scan: rest", edit_records(lambda data: data + b"x", index=False), r"rec, byte \d+: this part leads to byte \d+"),
    ("scan: length", edit_records(put(4, b"\x30\0\0\0"), index=False), r"rec, byte 0: this part leads to byte 56"),
    ("scan: start", edit_records(put(0, b"\0"), index=False), r"rec, byte 0: expected the magic word 0xced7230a"),
    ("scan: stray", edit_records(put(FIRST + 7, b"\x60"), index=False), rf"byte {FIRST}: a part of kind 3 after one"),
    ("scan: missing", edit_records(put(7, b"\x20"), index=False), rf"byte {FIRST}: a part of kind 0 after one of kind"),
    ("scan: first", edit_records(put(7, b"\x40"), index=False), r"byte 0: a part of kind 2 at the start"),
    ("scan: kind", edit_records(put(FIRST + 7, b"\xe0"), index=False), rf"byte {FIRST}: a part of kind 7 after one"),
    ("scan: open end", edit_records(lambda data: data + part(1, body(0.0, b"")), index=False), "ends within a record"),
    ("index: outside", edit_index(b"0\t0\n7\t99999996\n"), r"train\.idx, key 7: no record can begin at byte 99999996"),
    ("index: odd", edit_index(b"0\t0\n7\t6\n"), r"train\.idx, key 7: no record can begin at byte 6 of train\.rec"),
    ("index: middle", edit_index(b"0\t0\n7\t8\n"), r"train\.rec, byte 8: expected the magic word"),
    ("index: twice", edit_index(b"1\t0\n1\t0\n"), r"train\.idx, key 1: comes twice \(1 such keys\)"),
    ("index: negative", edit_index(b"0\t0\n-7\t0\n"), r"train\.idx, line 2: expected 'key<TAB>offset', got '-7\\t0'"),
    ("index: one", edit_index(b"0\t0\n\n7\n"), r"train\.idx, line 3: expected 'key<TAB>offset', got '7'"),
    ("index: three", edit_index(b"0\t0\t0\n"), r"train\.idx, line 1: expected 'key<TAB>offset'"),
    ("index: no key", edit_index(b"\t0\n"), r"train\.idx, line 1: expected 'key<TAB>offset'"),
    ("index: shifted", edit_index(b"0\t0\n1\n\t0\n"), r"train\.idx, line 2: expected 'key<TAB>offset', got '1'"),
    ("index: no number", edit_index(b"a\t0\n"), r"train\.idx, line 1: expected 'key<TAB>offset', got 'a\\t0'"),
    ("index: huge", edit_index(b"0\t" + b"9" * 30), r"train\.idx, line 1: expected 'key<TAB>offset'"),
    ("index: endless", edit_index(b"1" * 200_000), r"train\.idx, line 1: expected 'key<TAB>offset', got '1{60}\.\.\.'"),
    ("index: binary", edit_index(bytes(range(128, 256))), r"train\.idx, line 1: expected 'key<TAB>offset'"),
    ("index: empty", edit_index(b""), r"train\.idx: lists no record of train\.rec; remove it"),
    ("index: blank", edit_index(b"\n\r\n  \n"), r"train\.idx: lists no record"),
    ("index: folder", index_folder, r"train\.idx: cannot be opened \(Is a directory\)"),
    ("list: form", edit_list("0\t1\ta\nnonsense\n"), r"train\.lst, line 2: expected 'key<TAB>label<TAB>path' or"),
    ("list: label", edit_list("1\ta\t1\n1\tb\t0.5\n"), r"train\.lst, line 2: expected 'key<TAB>label<TAB>path' or"),
    ("list: nan", edit_list("1\ta\tnan\n"), r"train\.lst, line 1: expected"),
    ("list: negative", edit_list("0\t-1\ta\n"), r"train\.lst, line 1: expected"),
    ("list: huge", edit_list("0\t1e300\ta\n"), r"train\.lst, line 1: expected"),
    ("list: too short", edit_list("1\ta\t0\n1\tb\t0\n"), r"train\.lst: no line for key 2; remove the file to use"),
    ("list: empty", edit_list(""), r"train\.lst: no line for key 0"),
    ("header: nan", header(float("nan"), 7), r"train\.rec, byte 0: the label nan is not a whole number"),
    ("header: half", header(5.5, 7), r"train\.rec, byte 0: the label 5\.5 is not a whole number"),
    ("header: order", header(7, 5), r"train\.rec, byte 0: a header record with the keys 7 and 5"),
    ("header: no image", lambda root: write_records(root, [(0, record([1, 1], b""))]), r"train\.rec: holds no image"),
    ("header: fewer", header(1, 1), r"promises 0 images and 0 identities, train\.idx lists 0 images and 6 identities"),
    ("identity: nan", identities((1, float("nan")), (3, 5)), rf"rec, byte {IDENTITY_4}: the label nan is not a whole"),
    ("identity: turned", identities((3, 1), (3, 5)), rf"rec, byte {IDENTITY_4}: an identity's keys 3 up to 1 are no"),
    ("identity: zero", identities((0, 3), (3, 5)), rf"rec, byte {IDENTITY_4}: an identity's keys 0 up to 3 are no"),
    ("identity: overlap", identities((1, 4), (3, 5)), rf"rec, byte {IDENTITY_4 + 40}: an identity's keys 3 up to 5"),
    ("identity: beyond", identities((1, 3), (3, 9)), rf"rec, byte {IDENTITY_4 + 40}: an identity's keys 3 up to 9"),
    ("identity: gap", identities((1, 3), (4, 5)), r"rec, byte \d+: the image with key 3 belongs to no identity record"),
    ("identity: end", identities((1, 3), (3, 4)), r"rec, byte \d+: the image with key 4 belongs to no identity record"),
]


@pytest.mark.parametrize(
    ("make", "message"), [case[1:] for case in UNREADABLE_WHEN_OPENED], ids=[case[0] for case in UNREADABLE_WHEN_OPENED]
)
def test_bad_files_are_refused_in_one_line_that_names_the_place(tmp_path, make, message):
    root = tmp_path / "faces"
    make(root)
    with pytest.raises(RecordError, match=message) as caught:
        RecordDataset(root)
    assert str(root) in str(caught.value) and "\n" not in str(caught.value)
    assert not list(tmp_path.rglob("*maskwise*"))


def no_image(payload):
    return lambda: [(key, cut(body(0.0, payload if key == 1 else picture(key), key))) for key in range(3)]


BOMB = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + struct.pack(">II", 50_000, 50_000) + bytes(20)
UNREADABLE_WHEN_READ = [
    (no_image(b"nothing"), put(0, MAGIC), "not an image that OpenCV reads"),
    (no_image(BOMB), put(0, MAGIC), "50000 x 50000 pixels, more than"),
    (lambda: faces([1, 1, 1]), put(40, b"\0"), "expected the magic word"),
    (lambda: faces([1, 1, 1]), put(44, b"\xff\xff\xff\x1f"), "a part of 536870911 bytes does not fit"),
    (lambda: faces([1, 1, 1]), put(47, b"\x40"), "no record begins here, but a part of kind 2"),
]


@pytest.mark.parametrize(("records", "edit", "message"), UNREADABLE_WHEN_READ)
def test_an_image_that_cannot_be_read_is_named_with_its_byte(tmp_path, records, edit, message):
    offsets = write_records(tmp_path, records())
    with_bytes(tmp_path, "train.rec", edit)
    dataset = RecordDataset(tmp_path)
    index = dataset.keys.tolist().index(1)
    with pytest.raises(UnreadableImageError, match=message) as caught:
        dataset.read(index)
    assert str(caught.value).startswith(f"{tmp_path}/train.rec, byte {offsets[1]}: ")
    assert "\n" not in str(caught.value)
    assert str(caught.value.path) == str(dataset.paths[index])
    dataset.read(2)


def test_a_record_that_should_be_an_image_and_is_empty_is_named(tmp_path):
    records = faces([1, 2])
    records[2] = (2, record(1.0, b"", 2))
    write_records(tmp_path, records)
    with pytest.raises(UnreadableImageError, match=r"train\.rec, byte \d+: the record holds no image"):
        RecordDataset(tmp_path).read(1)


@pytest.mark.parametrize("name", ["train.rec", "train.idx", "train.lst"])
def test_files_that_may_not_be_read_are_named(tmp_path, monkeypatch, name):
    write_records(tmp_path, plain())
    (tmp_path / "train.lst").write_text("0\t1\ta\n")
    opened = type(tmp_path).open

    def refuse(self, *args, **kwargs):
        if self.name == name:
            raise PermissionError(13, "Permission denied", str(self))
        return opened(self, *args, **kwargs)

    monkeypatch.setattr(type(tmp_path), "open", refuse)
    with pytest.raises(RecordError, match=rf"{name.replace('.', '[.]')}: cannot be opened \(Permission denied\)"):
        RecordDataset(tmp_path)


# ---------------------------------------------------------------- seeded fuzzer

WORDS = [
    MAGIC,
    bytes(4),
    b"\xff" * 4,
    b"\xff\xff\xff\x1f",
    b"\0\0\0\x20",
    b"\0\0\0\x60",
    b"\x18\0\0\0",
    NAN,
    HALF,
    MINUS,
]
CHARACTERS = b"0123456789\t\n\r -.eEx\0\xff"


def mutate(data, rng):
    """Change bytes in one of the ways that disks, networks and editors do."""
    data = bytearray(data)
    place = rng.randrange(len(data) + 1)
    span = rng.choice([1, 3, 4, 8, 40])
    match rng.choice([0, 0, 0, 1, 1, 1, 2, 3, 4, 5, 6, 7]):
        case 0:
            data[place : place + 1] = bytes([rng.randrange(256)])
        case 1:
            data[place : place + 1] = bytes(byte ^ 1 << rng.randrange(8) for byte in data[place : place + 1])
        case 2:
            del data[place:]
        case 3:
            del data[place : place + span]
        case 4:
            data[place:place] = rng.randbytes(span)
        case 5:
            data[place // 4 * 4 : place // 4 * 4 + 4] = rng.choice(WORDS)
        case 6:
            data[place:place] = data[place // 2 : place // 2 + span]
        case 7:
            data[place : place + 1] = bytes([rng.choice(CHARACTERS)])
    return bytes(data)


def intact_sets():
    """Contents of train.rec, .idx and .lst in the usual combinations; an empty one does not exist."""
    cut_ones = [(1, cut(body([2.0, 0.0], MAGIC * 2 + picture(1), 0xCED7230A))), (2, record(1.0, picture(2), 2))]
    for records, index, listed in (
        (faces([2, 3, 1], suffix=".bmp"), True, b""),
        (faces([2, 2], suffix=".bmp"), False, b""),
        (plain(".bmp"), True, b"1\ta\t0\n1\tb\t1\n1\tc\t1\n1\td\t0\n"),
        (cut_ones, True, b""),
        (cut_ones, False, b"1\t1\ta\n2\t0\tb\n3487048458\t1\tc\n"),
    ):
        data, lines = b"", b""
        for key, framed in records:
            lines += b"%d\t%d\n" % (key, len(data))
            data += framed
        yield {"train.rec": data, "train.idx": lines if index else b"", "train.lst": listed}


def fuzz(root, num_inputs, seed):
    """Open and read mutated sets; return how many opened, had an unreadable image, and were refused."""
    rng = random.Random(seed)
    intact = list(intact_sets())
    outcomes = [0, 0, 0]
    for number in range(num_inputs):
        files = dict(intact[number % len(intact)])
        for _ in range(rng.choice([1, 1, 2, 5])):
            name = rng.choice([name for name, data in files.items() if data] or ["train.rec"])
            files[name] = mutate(files[name], rng)
        for name, data in files.items():
            (root / name).unlink(missing_ok=True)
            if data:
                (root / name).write_bytes(data)
        outcomes[try_to_read(root)] += 1
    return outcomes


def try_to_read(root):
    try:
        dataset = RecordDataset(root)
    except RecordError as error:
        check_line(error, root)
        return 2
    assert len(dataset) == len(dataset.labels) == len(dataset.keys) == len(dataset.paths)
    assert np.array_equal(np.unique(dataset.labels), np.arange(len(dataset.class_names)))
    damaged = 0
    for index in range(len(dataset)):
        try:
            assert dataset.read(index).shape == (112, 112, 3)
        except UnreadableImageError as error:
            check_line(error, root)
            assert ", byte " in str(error)
            damaged = 1
    return damaged


def check_line(error, root):
    assert str(root) in str(error) and "\n" not in str(error)


def test_mutated_files_are_read_or_refused_in_one_line(tmp_path):
    outcomes = fuzz(tmp_path, 400, seed=0)
    assert sum(outcomes) == 400 and min(outcomes) > 20, outcomes


@pytest.mark.slow
def test_many_mutated_files_are_read_or_refused_in_one_line(tmp_path):
    outcomes = fuzz(tmp_path, 20_000, seed=1)
    assert sum(outcomes) == 20_000 and min(outcomes) > 1000, outcomes


@pytest.mark.parametrize("name", ["train.idx", "train.lst"])
def test_a_pipe_beside_a_record_file_is_refused_and_not_waited_for(tmp_path, name):
    write_records(tmp_path, plain())
    (tmp_path / name).unlink(missing_ok=True)
    os.mkfifo(tmp_path / name)
    with pytest.raises(RecordError, match=rf"{name.replace('.', '[.]')}: cannot be opened \(it is a pipe"):
        RecordDataset(tmp_path)


@pytest.mark.parametrize("name", ["property", "train.maskwise-index"])
def test_a_pipe_that_nobody_needs_is_passed_over(tmp_path, name):
    write_records(tmp_path, plain())
    os.mkfifo(tmp_path / name)
    assert len(RecordDataset(tmp_path)) == len(plain())
