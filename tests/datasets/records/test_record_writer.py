import resource
import shutil
from pathlib import Path

import pytest
from programs import ROOT
from record_files import picture, record, write_records

from datasets.records.dataset import RecordDataset
from datasets.records.file import RecordFile
from datasets.records.writer import RecordWriter, write_faces

GOLDEN = ROOT / "tests" / "golden" / "recordio"


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("name", ["faces_scalar", "faces_array", "plain", "split"])
def test_the_bytes_are_those_of_mxnet(tmp_path, name):
    file = RecordFile(GOLDEN / name / "train.rec")
    lines = (GOLDEN / name / "train.idx").read_text().splitlines()
    with RecordWriter(tmp_path / "train.rec") as writer:
        for line in lines:
            key, offset = map(int, line.split())
            found = file.read(offset)
            writer.write(key, found.label, found.payload, found.id, found.id2)
    assert content(tmp_path) == {name_: (GOLDEN / name / name_).read_bytes() for name_ in ("train.rec", "train.idx")}


@pytest.mark.parametrize("array_labels", [False, True])
def test_faces_are_laid_out_as_insightface_does(tmp_path, array_labels):
    source = tmp_path / "source"
    shutil.copytree(GOLDEN / ("faces_array" if array_labels else "faces_scalar"), source)
    dataset = RecordDataset(source)
    payloads = (dataset.record(index).payload for index in range(len(dataset)))
    target = tmp_path / "target"
    target.mkdir()
    write_faces(target, payloads, dataset.labels, array_labels=array_labels)
    assert content(target) == {name: (source / name).read_bytes() for name in ("train.rec", "train.idx", "property")}


def test_records_are_those_of_the_format_description(tmp_path):
    records = [(key, (label, picture(key), 3 * key, key)) for key, label in ((9, 1.0), (2, [4.0, 5.0]), (5, 0.0))]
    write_records(tmp_path / "expected", [(key, record(*fields)) for key, fields in records])
    (tmp_path / "written").mkdir()
    with RecordWriter(tmp_path / "written" / "train.rec") as writer:
        for key, fields in records:
            writer.write(key, *fields)
    assert content(tmp_path / "written") == content(tmp_path / "expected")


def test_files_appear_complete_or_not_at_all(tmp_path):
    write_records(tmp_path, [(0, record(3.0, picture(0)))])
    before = content(tmp_path)
    with pytest.raises(KeyError), RecordWriter(tmp_path / "train.rec") as writer:
        writer.write(0, 1.0, b"x")
        raise KeyError
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(OSError), RecordWriter(tmp_path / "train.rec") as writer:
            writer.write(0, 1.0, bytes(2000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert content(tmp_path) == before


def test_a_run_killed_while_publishing_leaves_no_index_of_another_file(tmp_path, monkeypatch):
    write_records(tmp_path, [(0, record(3.0, picture(0))), (1, record(3.0, picture(1)))])
    replace = Path.replace

    def replace_records_only(self, target):
        if self.name == "idx":
            raise KeyboardInterrupt
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", replace_records_only)
    with pytest.raises(KeyboardInterrupt), RecordWriter(tmp_path / "train.rec") as writer:
        writer.write(0, 1.0, picture(2))
    assert sorted(content(tmp_path)) == ["train.rec"]
    assert RecordDataset(tmp_path).class_names == ["1"]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 1, 0], "sorted"),
        ([1, 1, 2], "contiguous from 0"),
        ([0, 0, 2], "contiguous from 0"),
        ([], "non-empty"),
        ([0, 0, 1], "3 images and 2 identities have keys up to 6, but the records store keys as float32"),
    ],
)
def test_labels_that_the_layout_cannot_hold_are_refused(tmp_path, monkeypatch, labels, message):
    monkeypatch.setattr("datasets.records.writer.MAX_EXACT", 5)
    with pytest.raises(ValueError, match=message):
        write_faces(tmp_path, iter([]), labels)
    assert content(tmp_path) == {}


def test_as_many_images_as_labels_are_needed(tmp_path):
    for payloads in ([b"a"], [b"a"] * 3):
        with pytest.raises(ValueError):
            write_faces(tmp_path, payloads, [0, 0])
    assert content(tmp_path) == {}
