import multiprocessing
import pickle
import shutil
import zlib
from pathlib import Path

import numpy as np
import pytest
import record_files
from programs import ROOT
from record_files import faces, picture, record, write_records
from torch.utils.data import DataLoader

from datasets import IdentitySubset, PKBatchSampler, PlannedBatches, TrainingView, UnreadableImageError, collate
from datasets.benchmarks.pairs import make_benchmark
from datasets.faces.images import decode_image, fit_image
from datasets.records.dataset import RecordDataset
from datasets.records.file import RecordFile
from datasets.records.format import RecordError
from datasets.records.index import read_index
from transforms import View

GOLDEN = ROOT / "tests" / "golden" / "recordio"
MAGIC_ID = 0xCED7230A


def copy(tmp_path, name):
    return Path(shutil.copytree(GOLDEN / name, tmp_path / name))


def pixels(payload):
    return fit_image(decode_image(payload, "here"))


def as_view(image, rng):
    return View(image, np.ones((112, 112), np.uint8))


# ---------------------------------------------------------------- golden files


@pytest.mark.parametrize("name", ["faces_scalar", "faces_array", "plain", "split"])
def test_golden_records_are_read_exactly(name):
    expected = np.load(GOLDEN / name / "expected.npz")
    file = RecordFile(GOLDEN / name / "train.rec")
    index = read_index(GOLDEN / name / "train.idx", file)
    assert index.keys.tolist() == sorted(expected["idx"].tolist())
    assert file.scan().tolist() == expected["offset"].tolist()
    headers = file.headers(expected["offset"], num_labels=2)
    for row, (key, offset) in enumerate(zip(expected["idx"].tolist(), expected["offset"].tolist(), strict=True)):
        assert index.offsets[np.searchsorted(index.keys, key)] == offset
        found = file.read(offset)
        labels = expected["label"][row][: max(1, expected["label_len"][row])]
        assert np.array_equal(np.atleast_1d(found.label), labels)
        assert found.label.ndim == (expected["label_len"][row] > 0)
        assert (found.id, found.id2) == (expected["id"][row], expected["id2"][row])
        assert len(found.payload) == expected["payload_len"][row]
        assert zlib.crc32(found.payload) == expected["payload_crc32"][row]
        assert file.payload(offset) == found.payload
        assert np.array_equal(headers.labels[row, : len(labels)], labels) and headers.ids[row] == found.id
        assert np.isnan(headers.labels[row, len(labels) :]).all()
        assert headers.has_payload[row] == bool(found.payload)


@pytest.mark.parametrize("missing", [[], ["train.idx"], ["train.lst"], ["train.idx", "train.lst"]])
@pytest.mark.parametrize("name", ["faces_scalar", "faces_array", "plain", "split"])
def test_golden_images_and_labels(tmp_path, name, missing):
    root = copy(tmp_path, name)
    for file in missing:
        (root / file).unlink(missing_ok=True)
    expected = np.load(GOLDEN / name / "expected.npz")
    rows = np.argsort(expected["idx"])
    if name.startswith("faces"):
        rows = rows[1:25]
    dataset = RecordDataset(root)
    assert dataset.keys.tolist() == expected["idx"][rows].tolist() and len(dataset) == len(rows)
    assert dataset.labels.dtype == np.int64
    assert dataset.labels.tolist() == expected["label"][rows, 0].tolist()
    assert dataset.class_names == [str(label) for label in range(dataset.labels.max() + 1)]
    for index, row in enumerate(rows.tolist()):
        if expected["img_decodable"][row]:
            bgr = np.ascontiguousarray(dataset.read(index)[..., ::-1])
            assert zlib.crc32(bgr) == expected["img_crc32_bgr"][row]
        else:
            with pytest.raises(UnreadableImageError, match=rf"train\.rec, byte {expected['offset'][row]}: "):
                dataset.read(index)


# ---------------------------------------------------------------- which records, which labels


def test_identity_ranges_label_the_images_they_name(tmp_path):
    # The second identity has no image, the first in the file comes last.
    records = faces([2, 4, 1], ranges=[(3, 7), (7, 7), (7, 8), (1, 3)], first_label=50)
    write_records(tmp_path, records)
    dataset = RecordDataset(tmp_path)
    assert dataset.keys.tolist() == [1, 2, 3, 4, 5, 6, 7]
    assert dataset.labels.tolist() == [2, 2, 0, 0, 0, 0, 1]
    assert dataset.class_names == ["0", "2", "3"]


def test_images_of_one_identity_need_not_be_decodable_for_their_labels(tmp_path):
    records = [(key, record(float(key % 2), b"no image")) for key in range(4)]
    write_records(tmp_path, records)
    assert RecordDataset(tmp_path).labels.tolist() == [0, 1, 0, 1]


@pytest.mark.parametrize("index", [True, False])
def test_labels_come_from_the_headers_even_where_a_magic_word_cuts_them(tmp_path, index):
    magic_float = np.frombuffer(record_files.MAGIC, "<f4")[0]
    records = [
        (0, record(70.0, picture(0), id=MAGIC_ID)),
        (1, record([9.0, magic_float, 1.0], picture(1), id=1)),
        (2, record(70.0, record_files.MAGIC * 3, id=MAGIC_ID << 32, id2=MAGIC_ID)),
        (3, record([10.0], picture(3), id=3)),
    ]
    write_records(tmp_path, records, index=index)
    dataset = RecordDataset(tmp_path)
    order = dataset.keys if index else [{MAGIC_ID: 0, MAGIC_ID << 32: 2}.get(key, key) for key in dataset.keys.tolist()]
    stored = dict(enumerate([70, 9, 70, 10]))
    assert [int(dataset.class_names[label]) for label in dataset.labels] == [stored[key] for key in order]
    assert dataset.class_names == ["9", "10", "70"]


def test_a_scan_takes_ids_as_keys_unless_they_come_twice(tmp_path):
    ids = [30, 10, 20]
    write_records(tmp_path / "ids", [(id, record(0.0, picture(id), id)) for id in ids], index=False)
    write_records(tmp_path / "zeros", [(id, record(0.0, picture(id), 0)) for id in ids], index=False)
    by_id, by_place = RecordDataset(tmp_path / "ids"), RecordDataset(tmp_path / "zeros")
    assert by_id.keys.tolist() == [10, 20, 30] and by_place.keys.tolist() == [0, 1, 2]
    for dataset, order in ((by_id, sorted(ids)), (by_place, ids)):
        for index, id in enumerate(order):
            assert np.array_equal(dataset.read(index), pixels(picture(id)))


def test_a_scan_follows_the_lengths_where_a_writer_did_not_cut(tmp_path):
    whole = record_files.part(0, record_files.body(4.0, b"abcd" + record_files.MAGIC + b"12345"))
    offsets = write_records(tmp_path, [(0, record(1.0, b"a")), (1, whole), (2, record(2.0, b"b"))], index=False)
    assert RecordFile(tmp_path / "train.rec").scan().tolist() == list(offsets.values())


def test_long_scans_and_header_passes_are_done_in_pieces(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.records.file._WORDS_AT_ONCE", 7)
    monkeypatch.setattr("datasets.records.file._HEADERS_AT_ONCE", 3)
    monkeypatch.setattr("datasets.records.index._BLOCK_BYTES", 5)
    records = [(key, record(float(key % 3), picture(key), key)) for key in (5, 3, 0, 8, 1, 7, 12)]
    offsets = write_records(tmp_path, records)
    for name in ("train.rec", "train.idx"):
        dataset = RecordDataset(tmp_path)
        assert dataset.offsets.tolist() == [offsets[key] for key in sorted(offsets)]
        assert dataset.labels.tolist() == [0, 1, 0, 2, 1, 2, 0]
        (tmp_path / name).touch()
        (tmp_path / "train.idx").unlink(missing_ok=True)


@pytest.mark.parametrize("text", ["{k}\t{o}\r\n", "{k} {o}\n", "\n  {k}\t{o} \n\n", "{k}\t{o}\n"])
def test_index_lines_may_end_and_be_spaced_as_they_like(tmp_path, text):
    offsets = write_records(tmp_path, [(key, record(0.0, picture(key))) for key in (4, 2, 3)])
    lines = "".join(text.format(k=key, o=offset) for key, offset in offsets.items())
    (tmp_path / "train.idx").write_bytes(lines.rstrip("\r\n").encode())
    dataset = RecordDataset(tmp_path)
    assert dataset.keys.tolist() == [2, 3, 4]
    assert dataset.offsets.tolist() == [offsets[2], offsets[3], offsets[4]]


@pytest.mark.parametrize(
    ("first", "lines"),
    [
        (1, ["1\ta/1.jpg\t7", "1\ta/2.jpg\t5", "1\tb/3.jpg\t7"]),
        (0, ["1\ta/1.jpg\t7\r", "1\ta/2.jpg\t5\r", "1\tb/3.jpg\t7\t9\t9\r"]),
        (1, ["3\t7.000000\tb/3.jpg", "9\t1\tgone.jpg", "1\t7.0\ta/1.jpg", "2\t5\t3.5\ta/2.jpg"]),
    ],
)
def test_a_list_labels_the_images_where_no_identity_record_does(tmp_path, first, lines):
    stored = [7, 5, 7]
    write_records(tmp_path, [(first + n, record(float(label), picture(n))) for n, label in enumerate(stored)])
    (tmp_path / "train.lst").write_text("\n".join(lines) + "\n\n")
    dataset = RecordDataset(tmp_path)
    assert dataset.labels.tolist() == [1, 0, 1] and dataset.class_names == ["5", "7"]


def test_a_list_that_disagrees_with_the_records_is_used_and_named(tmp_path, caplog):
    write_records(tmp_path, [(key, record(0.0, picture(key))) for key in range(3)])
    (tmp_path / "train.lst").write_text("0\t4\ta\n1\t4\tb\n2\t0\tc\n")
    assert RecordDataset(tmp_path).labels.tolist() == [1, 1, 0]
    assert "2 of 3 labels compared differ" in caplog.text and "(4 for key 0, 0 in its record)" in caplog.text


def test_records_without_an_image_are_no_samples(tmp_path, caplog):
    records = faces([2, 2])[1:]
    write_records(tmp_path, records)
    dataset = RecordDataset(tmp_path)
    assert dataset.keys.tolist() == [1, 2, 3, 4] and dataset.labels.tolist() == [0, 0, 1, 1]
    assert "2 records without an image are left out" in caplog.text


def test_a_header_record_alone_bounds_the_samples(tmp_path):
    records = [(0, record([3, 3], b"")), (1, record(6.0, picture(1))), (2, record(5.0, picture(2)))]
    write_records(tmp_path, records)
    dataset = RecordDataset(tmp_path)
    assert dataset.keys.tolist() == [1, 2] and dataset.labels.tolist() == [1, 0]


def test_a_first_image_with_two_labels_is_no_header_record(tmp_path):
    write_records(tmp_path, [(key, record([float(key), 0.0], picture(key))) for key in range(3)])
    assert RecordDataset(tmp_path).labels.tolist() == [0, 1, 2]


def test_keys_beyond_what_float32_holds_are_bounded_by_the_last_image(tmp_path):
    # 2**24 + 1 cannot be stored: it becomes 2**24.
    last = 2**24
    records = [(0, record([last + 1, last + 3], b"")), (last - 1, record(1.0, picture(1)))]
    records += [(last, record(0.0, picture(2)))]
    records += [(last + 1, record([1, last], b"")), (last + 2, record([last, last + 1], b""))]
    write_records(tmp_path, records)
    dataset = RecordDataset(tmp_path)
    assert dataset.keys.tolist() == [last - 1, last] and dataset.labels.tolist() == [1, 0]


@pytest.mark.parametrize("index", [True, False])
@pytest.mark.parametrize("kept", range(1, 8))
def test_a_file_cut_at_any_record_is_refused_with_both_numbers(tmp_path, kept, index):
    records = faces([2, 3])
    write_records(tmp_path, records[:kept], index=index)
    found = f"{min(kept - 1, 5)} images and {max(0, kept - 6)} identities"
    place = r"train\.idx lists" if index else "the file holds"
    with pytest.raises(RecordError, match=f"promises 5 images and 2 identities, {place} {found}: cut off") as caught:
        RecordDataset(tmp_path)
    assert "\n" not in str(caught.value) and str(tmp_path / "train.rec") in str(caught.value)


@pytest.mark.parametrize(
    ("edit", "found"),
    [
        (lambda lines: lines[:3] + lines[4:], "4 images and 2 identities"),
        (lambda lines: lines[:-1], "5 images and 1 identities"),
        (lambda lines: [*lines, "8\t0"], "5 images and 3 identities"),
    ],
)
def test_an_index_of_more_or_fewer_records_than_the_header_promises_is_refused(tmp_path, edit, found):
    write_records(tmp_path, faces([2, 3]))
    path = tmp_path / "train.idx"
    path.write_text("\n".join(edit(path.read_text().split("\n")[:-1])) + "\n")
    with pytest.raises(RecordError, match=rf"promises 5 images and 2 identities, train\.idx lists {found}"):
        RecordDataset(tmp_path)


def test_a_file_of_rounded_keys_that_is_cut_is_refused(tmp_path):
    end = 2**24 + 1000
    write_records(tmp_path, [(0, record([end - 10, end], b"")), (end - 900, record(1.0, picture(1)))])
    with pytest.raises(RecordError, match=rf"promises records up to key {end - 1}, .* up to {end - 900}: cut off"):
        RecordDataset(tmp_path)


def test_a_list_of_more_images_than_the_file_holds_is_named(tmp_path, caplog):
    write_records(tmp_path, [(key, record(0.0, picture(key))) for key in range(3)])
    (tmp_path / "train.lst").write_text("".join(f"{key}\t0\ta\n" for key in range(5)))
    assert len(RecordDataset(tmp_path)) == 3
    assert "train.lst: 5 lines for 3 images; the record file may be cut off" in caplog.text


@pytest.mark.parametrize(("text", "warned"), [("2,112,112", False), ("3,112,112\n", True), ("", False), ("a,b", False)])
def test_a_property_file_of_another_number_of_identities_is_named(tmp_path, caplog, text, warned):
    write_records(tmp_path, faces([2, 3]))
    (tmp_path / "property").write_text(text)
    for _ in range(2):
        caplog.clear()
        RecordDataset(tmp_path)
        assert ("property states 3 identities, the records hold 2" in caplog.text) == warned


def test_the_root_is_a_folder_with_one_record_file_or_the_file(tmp_path):
    write_records(tmp_path, faces([2, 3]), stem="mine")
    assert len(RecordDataset(tmp_path)) == len(RecordDataset(tmp_path / "mine.rec")) == 5
    write_records(tmp_path, faces([1, 1]), stem="other")
    with pytest.raises(RecordError, match=r"expected train\.rec or one other \.rec file, found mine\.rec, other\.rec"):
        RecordDataset(tmp_path)
    write_records(tmp_path, faces([3, 3]))
    assert len(RecordDataset(str(tmp_path))) == 6


# ---------------------------------------------------------------- as a data set


def test_samples_have_the_interface_of_an_image_folder(tmp_path, caplog):
    offsets = write_records(tmp_path, faces([2, 1]))
    dataset = RecordDataset(tmp_path)
    assert "1 of 2 identities have one image only" in caplog.text
    image, label, dataset_id, visibility, index, unreadable, *views = dataset[2]
    assert np.array_equal(image, pixels(picture(3))) and image.shape == (112, 112, 3) and image.dtype == np.uint8
    assert (label, dataset_id, visibility, index, unreadable, *views) == (1, 0, None, 2, -1, None, None)
    assert str(dataset.paths[2]) == f"{tmp_path}/train.rec, byte {offsets[3]}"
    assert list(dataset.paths)[1:] == list(dataset.paths[1:]) == list(dataset.paths.take(np.array([1, 2])))
    swapped = RecordDataset(tmp_path, swap_color_channel=True, transform=lambda image: 255 - image)
    assert np.array_equal(swapped.read(0), 255 - pixels(picture(1))[..., ::-1])
    assert dataset.decoding != swapped.decoding
    with pytest.raises(IndexError):
        dataset[3]


def test_samplers_subsets_views_and_benchmarks_work_unchanged(tmp_path):
    offsets = write_records(tmp_path, faces([4, 5, 6, 4]))
    data = bytearray((tmp_path / "train.rec").read_bytes())
    data[offsets[5] + 40 : offsets[5] + 44] = b"////"  # inside the image of key 5
    (tmp_path / "train.rec").write_bytes(data)
    subset = IdentitySubset(RecordDataset(tmp_path), [1, 2, 3])
    assert subset.labels.tolist() == [0] * 5 + [1] * 6 + [2] * 4 and subset.class_names == ["1", "2", "3"]
    assert str(subset.paths[0]).endswith(f"train.rec, byte {offsets[5]}")
    loader = DataLoader(
        TrainingView(subset, as_view, seed=0),
        batch_sampler=PlannedBatches(PKBatchSampler(subset.labels, 8, seed=1)),
        collate_fn=collate,
        num_workers=2,
    )
    replaced = 0
    for batch in loader:
        for image, index, unreadable in zip(batch.image, batch.index.tolist(), batch.unreadable.tolist(), strict=True):
            assert np.array_equal(image.numpy(), pixels(picture(5 + index)))
            assert unreadable in (-1, 0) and (index, unreadable) != (0, -1)
            replaced += unreadable == 0
    assert replaced
    benchmark = make_benchmark(subset, max_pairs=20)
    assert len(benchmark) == 20


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_read_the_same_images(tmp_path, method):
    write_records(tmp_path, faces([2, 2]))
    dataset = RecordDataset(tmp_path)
    context = multiprocessing.get_context(method)
    loader = DataLoader(dataset, batch_size=4, num_workers=1, collate_fn=collate, multiprocessing_context=context)
    (batch,) = loader
    assert np.array_equal(batch.image.numpy(), np.stack([dataset.read(index) for index in range(4)]))
    assert batch.label.tolist() == [0, 0, 1, 1]


def test_a_pickled_data_set_holds_no_arrays_and_refuses_another_file(tmp_path):
    write_records(tmp_path, faces([40, 60]))
    state = pickle.dumps(RecordDataset(tmp_path, swap_color_channel=True))
    assert len(state) < 1000
    again = pickle.loads(state)
    assert again.swap_color_channel and again.labels.tolist() == [0] * 40 + [1] * 60
    write_records(tmp_path, faces([60, 40]))
    with pytest.raises(RecordError, match=r"train\.rec: it or a file beside it changed while it was in use"):
        pickle.loads(state)
