"""Identity folders -> records -> identity folders."""

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from converted_faces import contents, kill_at, killed, read_rgb, write_face
from programs import ROOT
from record_files import body, cut, picture, record, write_records

from datasets import ImageFolderDataset, RecordDataset
from datasets.conversion import encoding, to_folder, to_records, workspace
from datasets.conversion.encoding import Encoding
from datasets.conversion.outcome import Job
from datasets.conversion.to_folder import records_to_folder
from datasets.conversion.to_records import folder_to_records
from datasets.faces.image_kinds import suffix_of
from datasets.synthetic.prepare import render_identities

GOLDEN = ROOT / "tests" / "golden" / "recordio"


@pytest.fixture(scope="module")
def images():
    return render_identities("convert", 4, 3)[0]


@pytest.fixture
def folder(tmp_path, images):
    """Four identities of three images of 112 x 112, JPEG and PNG."""
    root = tmp_path / "faces"
    for number, image in enumerate(images):
        write_face(root / f"person {number // 3}" / f"{number}{'.jpg' if number % 2 else '.png'}", image)
    return root


def job(source, output, **options):
    return Job(source, output, **{"encoding": Encoding(), **options})


def test_round_trip_keeps_every_byte_and_name(folder, tmp_path):
    outcome = folder_to_records(job(folder, tmp_path / "rec"))
    assert outcome.num_unreadable == 0 and "12 images of 4 identities" in outcome.text
    records_to_folder(job(tmp_path / "rec", tmp_path / "back"), names_from_list=True)
    assert contents(tmp_path / "back") == contents(folder)
    # Nothing is left beside the results.
    assert sorted(path.name for path in tmp_path.iterdir()) == ["back", "faces", "rec"]


def test_records_are_named_by_label_and_key(folder, tmp_path):
    folder_to_records(job(folder, tmp_path / "rec"))
    records_to_folder(job(tmp_path / "rec", tmp_path / "back"))
    dataset, source = ImageFolderDataset(tmp_path / "back"), ImageFolderDataset(folder)
    assert dataset.class_names == ["0", "1", "2", "3"]
    assert [dataset.paths.relative(index) for index in (0, 3, 11)] == ["0/01.png", "1/04.jpg", "3/12.jpg"]
    assert all(np.array_equal(dataset.read(index), source.read(index)) for index in range(12))


def test_the_bytes_are_those_of_the_format(folder, tmp_path, images):
    """Built here from the description of the layout alone."""
    folder_to_records(job(folder, tmp_path / "rec"))
    files = sorted(folder.rglob("*.*"), key=lambda path: (path.parent.name, path.name))
    expected = cut(body([13, 17], b""))
    for key, file in enumerate(files, start=1):
        expected += cut(body((key - 1) // 3, file.read_bytes(), key))
    for number in range(4):
        expected += cut(body([1 + 3 * number, 4 + 3 * number], b"", 13 + number))
    assert (tmp_path / "rec/train.rec").read_bytes() == expected
    assert (tmp_path / "rec/property").read_text() == "4,112,112"
    lines = (tmp_path / "rec/train.lst").read_text().splitlines()
    assert lines[0] == f"1\tperson 0/{files[0].name}\t0" and len(lines) == 12
    index = [line.split("\t") for line in (tmp_path / "rec/train.idx").read_text().splitlines()]
    assert [int(key) for key, _ in index] == list(range(17))
    assert all(expected[int(offset) :].startswith(b"\x0a\x23\xd7\xce") for _, offset in index)


def test_the_records_train_like_the_folder(folder, tmp_path):
    folder_to_records(job(folder, tmp_path / "rec"))
    records, files = RecordDataset(tmp_path / "rec"), ImageFolderDataset(folder)
    np.testing.assert_array_equal(records.labels, files.labels)
    for index in range(len(files)):
        np.testing.assert_array_equal(records.read(index), files.read(index))


@pytest.mark.parametrize(("format", "suffix"), [("png", ".png"), ("jpeg", ".jpg")])
def test_other_sizes_and_formats_are_encoded_anew(tmp_path, images, format, suffix):
    write_face(tmp_path / "in/a/0.bmp", images[0])
    write_face(tmp_path / "in/a/1.png", cv2.resize(images[1], (150, 130)))
    write_face(tmp_path / "in/a/2.jpg", images[2])
    folder_to_records(job(tmp_path / "in", tmp_path / "rec", encoding=Encoding(format, 60)))
    source, records = ImageFolderDataset(tmp_path / "in"), RecordDataset(tmp_path / "rec")
    payloads = [records.record(index).payload for index in range(3)]
    assert [suffix_of(payload) for payload in payloads] == [suffix, suffix, ".jpg"]
    assert payloads[2] == (tmp_path / "in/a/2.jpg").read_bytes()
    for index, payload in enumerate(payloads[:2]):
        expected = source.read(index)
        if format == "jpeg":
            options = [cv2.IMWRITE_JPEG_QUALITY, 60]
            expected = read_rgb(cv2.imencode(".jpg", expected[..., ::-1], options)[1].tobytes())
        np.testing.assert_array_equal(read_rgb(payload), expected)


def test_unreadable_images_are_left_out_and_listed(folder, tmp_path):
    (folder / "person 0/0.png").write_bytes(b"no image")
    for name in ("3.jpg", "4.png", "5.jpg"):
        (folder / "person 1" / name).write_bytes(b"")
    outcome = folder_to_records(job(folder, tmp_path / "rec"))
    assert outcome.num_unreadable == 4 and "8 images of 3 identities" in outcome.text
    lines = [line.split("\t") for line in outcome.unreadable.read_text().splitlines()]
    assert outcome.unreadable == tmp_path / "rec.unreadable.tsv" and len(lines) == 4
    assert lines[0][0].endswith("person 0/0.png") and lines[1][1] == "the file is empty"
    records = RecordDataset(tmp_path / "rec")
    assert records.labels.tolist() == [0, 0, 1, 1, 1, 2, 2, 2]
    # A result without such images takes the list away again.
    shutil.rmtree(folder / "person 1")
    (folder / "person 0/0.png").unlink()
    folder_to_records(job(folder, tmp_path / "rec", overwrite=True))
    assert not outcome.unreadable.exists()


def test_records_that_hold_no_image_are_left_out_and_listed(tmp_path):
    records = [(key, record(float(key // 2), picture(key), key)) for key in range(4)]
    records[1] = (1, record(0.0, b"no image", 1))
    write_records(tmp_path / "rec", records)
    outcome = records_to_folder(job(tmp_path / "rec", tmp_path / "out"))
    assert outcome.num_unreadable == 1 and "byte" in outcome.unreadable.read_text()
    assert sorted(contents(tmp_path / "out")) == ["0/0.png", "1/2.png", "1/3.png"]


@pytest.mark.parametrize("name", ["faces_scalar", "plain"])
def test_golden_records_become_folders(tmp_path, name):
    shutil.copytree(GOLDEN / name, tmp_path / name)
    records_to_folder(job(tmp_path / name, tmp_path / "out"))
    source = RecordDataset(tmp_path / name)
    digits = len(str(source.keys.max()))
    found = contents(tmp_path / "out")
    assert len(found) == len(source)
    for index, key in enumerate(source.keys.tolist()):
        payload = source.record(index).payload
        stem = f"{source.class_names[source.labels[index]]}/{key:0{digits}d}"
        assert found[stem + suffix_of(payload)] == payload
    assert {path.split("/")[0] for path in found} == set(source.class_names)


def convert(direction, source, output, **options):
    function = folder_to_records if direction == "records" else records_to_folder
    return function(job(source, output, **options))


@pytest.mark.parametrize("direction", ["records", "folder"])
@pytest.mark.parametrize("place", [1, 3, 6, 12])
def test_a_killed_conversion_goes_on(folder, tmp_path, monkeypatch, direction, place):
    """Killed at any image, nothing has the final name; the next run ends with the same bytes and less work."""
    monkeypatch.setattr(to_records, "CHECKPOINT", 2)
    monkeypatch.setattr(to_folder, "CHECKPOINT", 2)
    (folder / "person 1/3.jpg").write_bytes(b"broken")
    source = folder
    if direction == "folder":
        folder_to_records(job(folder, tmp_path / "source"))
        source = tmp_path / "source"
        place = min(place, 11)
    expected = convert(direction, source, tmp_path / "expected")
    with monkeypatch.context() as patch:
        patch.setattr(encoding, "decode_payload", kill_at(place, encoding.decode_payload))
        # Portions of one image: else all are decoded before the first is written.
        patch.setattr("datasets.payloads.PORTION", 1)
        assert killed(lambda: convert(direction, source, tmp_path / "out"))
    assert not (tmp_path / "out/train.rec").exists() and not list((tmp_path).glob("out/[0-9]*"))
    decoded = []
    monkeypatch.setattr(
        encoding, "decode_payload", lambda payload, work=encoding.decode_payload: decoded.append(0) or work(payload)
    )
    outcome = convert(direction, source, tmp_path / "out")
    assert outcome.num_unreadable == expected.num_unreadable
    assert contents(tmp_path / "out") == contents(tmp_path / "expected")
    total = 12 if direction == "records" else 11
    assert len(decoded) == total - (place - 1) // 2 * 2
    if direction == "records":
        assert (tmp_path / "out.unreadable.tsv").read_text() == (tmp_path / "expected.unreadable.tsv").read_text()
    assert not list(tmp_path.rglob("*.converting"))


@pytest.mark.parametrize("name", ["train.rec", "train.idx", "property"])
def test_killed_while_naming_the_files_the_next_run_names_the_others(folder, tmp_path, monkeypatch, name):
    folder_to_records(job(folder, tmp_path / "expected"))
    (folder / "person 0/0.png").touch()

    def replace(source, target, work=Path.replace):
        if target == tmp_path / "out" / name:
            kill_at(1, work)(source, target)
        return work(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", replace)
        assert killed(lambda: folder_to_records(job(folder, tmp_path / "out")))
    outcome = folder_to_records(job(folder, tmp_path / "out"))
    assert "an earlier run had finished it" in outcome.text
    assert contents(tmp_path / "out") == contents(tmp_path / "expected")


@pytest.mark.parametrize("direction", ["records", "folder"])
def test_killed_at_the_very_end_it_ends_alike(folder, tmp_path, monkeypatch, direction):
    """Whatever comes after the last image is done again, and once."""
    (folder / "person 0/0.png").write_bytes(b"broken")
    source = folder
    if direction == "folder":
        folder_to_records(job(folder, tmp_path / "source"))
        source = tmp_path / "source"
    expected = convert(direction, source, tmp_path / "expected")
    with monkeypatch.context() as patch:
        patch.setattr(workspace.Workspace, "publish", kill_at(1, workspace.Workspace.publish))
        assert killed(lambda: convert(direction, source, tmp_path / "out"))
    assert convert(direction, source, tmp_path / "out").num_unreadable == expected.num_unreadable
    assert contents(tmp_path / "out") == contents(tmp_path / "expected")
    # Killed once more, when all have their names: what could not be read is still said.
    with monkeypatch.context() as patch:
        patch.setattr(workspace.shutil, "rmtree", kill_at(1, shutil.rmtree))
        assert killed(lambda: convert(direction, source, tmp_path / "last"))
    assert convert(direction, source, tmp_path / "last").num_unreadable == expected.num_unreadable
    assert contents(tmp_path / "last") == contents(tmp_path / "expected")


def test_an_interrupted_conversion_of_other_images_is_not_continued(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(to_records, "CHECKPOINT", 2)
    monkeypatch.setattr("datasets.payloads.PORTION", 1)
    with monkeypatch.context() as patch:
        patch.setattr(encoding, "decode_payload", kill_at(9, encoding.decode_payload))
        assert killed(lambda: folder_to_records(job(folder, tmp_path / "out")))
    shutil.copy(folder / "person 3/10.png", folder / "person 0/0.png")
    folder_to_records(job(folder, tmp_path / "out"))
    assert RecordDataset(tmp_path / "out").record(0).payload == (folder / "person 3/10.png").read_bytes()


def test_what_a_power_cut_took_is_written_again(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(to_records, "CHECKPOINT", 2)
    monkeypatch.setattr("datasets.payloads.PORTION", 1)
    folder_to_records(job(folder, tmp_path / "expected"))
    with monkeypatch.context() as patch:
        patch.setattr(encoding, "decode_payload", kill_at(9, encoding.decode_payload))
        assert killed(lambda: folder_to_records(job(folder, tmp_path / "out")))
    (tmp_path / "out/.train.rec.converting/train.rec").write_bytes(b"")
    folder_to_records(job(folder, tmp_path / "out"))
    assert contents(tmp_path / "out") == contents(tmp_path / "expected")


def test_two_conversions_do_not_write_one_result(folder, tmp_path):
    with workspace.open_workspace(tmp_path / "rec/train.rec", "another"):
        with pytest.raises(ValueError, match="another conversion"):
            folder_to_records(job(folder, tmp_path / "rec"))


def test_the_lock_of_a_process_that_may_write_more_than_this_one_stays_where_it_is(tmp_path, monkeypatch):
    with workspace.open_workspace(tmp_path / "train.rec", "plan"):
        before = contents(tmp_path / ".train.rec.converting")
        monkeypatch.setattr("os.access", lambda path, mode: False)  # as files of another user are
        with (
            pytest.raises(ValueError, match="another conversion"),
            workspace.open_workspace(tmp_path / "train.rec", ""),
        ):
            pass
        assert contents(tmp_path / ".train.rec.converting") == before


def test_a_finished_result_stays(folder, tmp_path):
    folder_to_records(job(folder, tmp_path / "rec"))
    before = contents(tmp_path / "rec")
    write_face(folder / "person 9/0.png", np.zeros((112, 112, 3), np.uint8))
    with pytest.raises(ValueError, match="--overwrite"):
        folder_to_records(job(folder, tmp_path / "rec"))
    assert contents(tmp_path / "rec") == before and not list(tmp_path.rglob("*.converting"))
    folder_to_records(job(folder, tmp_path / "rec", overwrite=True))
    assert len(RecordDataset(tmp_path / "rec")) == 13
    records_to_folder(job(tmp_path / "rec", tmp_path / "out"))
    with pytest.raises(ValueError, match="--overwrite"):
        records_to_folder(job(tmp_path / "rec", tmp_path / "out"))
    records_to_folder(job(tmp_path / "rec", tmp_path / "out", overwrite=True))
    # A folder of the user's is never replaced.
    with pytest.raises(ValueError, match="did not write it"):
        records_to_folder(job(tmp_path / "rec", folder, overwrite=True))
    assert (folder / "person 0/0.png").exists()


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["../a/0.png", "b/1.png"], "line 1: expected the path"),
        (["a/0.png", "/etc/1.png"], "line 2: expected the path"),
        (["a/0.png", "b/../../1.png"], "line 2: expected the path"),
        (["a/0.png", ".b/1.png"], "line 2: expected the path"),
        (["a/0.png", "b\\..\\c/1.png"], "line 2: expected the path"),
        (["a/0.png", "b"], "line 2: expected the path"),
        (["Anna/0.png", "anna/1.png"], "'Anna' and 'anna' of two identities differ by case only"),
        (["a/0.png", "a/1.png"], "are the same"),
        (["a/0.png"], "no line for key 2"),
    ],
)
def test_names_that_cannot_be_folders_are_refused(tmp_path, names, message):
    """Before anything is written."""
    records = [(0, record([3, 5], b""))]
    records += [(key, record(float(key - 1), picture(key), key)) for key in (1, 2)]
    records += [(3, record([1, 2], b"", 3)), (4, record([2, 3], b"", 4))]
    write_records(tmp_path / "rec", records)
    (tmp_path / "rec/train.lst").write_text("".join(f"1\t{name}\t0\n" for name in names))
    with pytest.raises(ValueError, match=message) as caught:
        records_to_folder(job(tmp_path / "rec", tmp_path / "out"), names_from_list=True)
    assert "\n" not in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rec"]


@pytest.mark.parametrize("second", ["a/0.jpg", "a/0.PNG"])
def test_images_that_would_have_one_name_are_refused(tmp_path, second):
    write_records(tmp_path / "rec", [(key, record(0.0, picture(key), key)) for key in (1, 2)])
    (tmp_path / "rec/train.lst").write_text(f"1\t0\ta/0.png\n2\t0\t{second}\n")
    with pytest.raises(ValueError, match="would have one name"):
        records_to_folder(job(tmp_path / "rec", tmp_path / "out"), names_from_list=True)


def test_mxnets_list_names_images_too(tmp_path):
    write_records(tmp_path / "rec", [(key, record(0.0, picture(key), key)) for key in (7, 3)])
    (tmp_path / "rec/train.lst").write_text("7\t0\tx/seven.jpg\r\n\n3\t0\tx/three.jpg\r\n")
    records_to_folder(job(tmp_path / "rec", tmp_path / "out"), names_from_list=True)
    assert contents(tmp_path / "out") == {"x/seven.png": picture(7), "x/three.png": picture(3)}


def test_a_name_that_no_line_can_hold_is_refused(folder, tmp_path):
    (folder / "person 0/0.png").rename(folder / "person 0/a\tb.png")
    with pytest.raises(ValueError, match="rename it"):
        folder_to_records(job(folder, tmp_path / "rec"))


def test_no_readable_image_is_no_result(tmp_path):
    (tmp_path / "in/a").mkdir(parents=True)
    (tmp_path / "in/a/0.png").write_bytes(b"broken")
    with pytest.raises(ValueError, match="none of its 1 images"):
        folder_to_records(job(tmp_path / "in", tmp_path / "rec"))
    assert not list((tmp_path / "rec").iterdir())


def test_records_are_not_written_among_the_people(folder):
    for output in (folder, folder / "rec"):
        with pytest.raises(ValueError, match="lies in the data folder"):
            folder_to_records(job(folder, output))
    assert not list(folder.rglob("train.*"))


def test_links_out_of_the_folder_are_converted_if_asked_for(folder, tmp_path):
    linked = tmp_path / "linked"
    linked.mkdir()
    for person in folder.iterdir():
        (linked / person.name).symlink_to(person)
    with pytest.raises(ValueError, match=r"links not followed, out of the root.*\(--follow_links;"):
        folder_to_records(job(linked, tmp_path / "rec"))
    assert "12 images of 4 identities" in folder_to_records(job(linked, tmp_path / "rec"), follow_links=True).text
