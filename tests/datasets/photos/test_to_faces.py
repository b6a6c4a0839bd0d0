"""Photographs -> faces.json, faces.csv and pictures: every photograph is there, and an interrupted search goes on."""

import csv

import cv2
import numpy as np
import pytest
from converted_faces import contents
from photographs import FakeDetector, background, photograph, write

from datasets.photos import to_faces
from datasets.photos.detection import Detection
from datasets.photos.to_faces import Export, FindJob, draw_faces, find_faces, read_document, summary
from models.detectors.sized import SizedChoice, TestSizes
from transforms import TEMPLATE


class Choice:
    """A detector that finds as many faces as it is told, whatever the photograph."""

    def __init__(self, *answers):
        self.detector = FakeDetector(*answers)

    def load(self):
        return self.detector


def face(x, y, score=0.9):
    return Detection(np.array([x, y, x + 60.25, y + 70.0]), score, TEMPLATE / 2.0 + [x, y])


@pytest.fixture
def folder(tmp_path):
    write(tmp_path / "in/a/1.png", photograph(0).image)
    write(tmp_path / "in/a/1.jpg", background(np.random.default_rng(9), (60, 80)))
    (tmp_path / "in/a/broken.jpg").write_bytes(b"\xff\xd8\xffbroken")
    write(tmp_path / "in" / "odd\x1b[31m\nname.png", photograph(1).image)
    (tmp_path / "in/note.txt").write_text("nothing to see")
    return tmp_path / "in"


def search(folder, *answers, **options):
    return find_faces(FindJob(folder, folder.parent / "out", Choice(*answers), {"max_side": 640}, **options))


def test_every_photograph_is_there_with_edges_of_pixels(folder):
    outcome = search(folder, [], [face(10, 20), face(-5, 3, 0.7)], [face(1, 2)], threshold=0.4)
    output = folder.parent / "out"
    document = read_document(output)
    names = [one["path"] for one in document["photographs"]]
    assert names == ["a/1.jpg", "a/1.png", "a/broken.jpg", "odd\x1b[31m\nname.png"]
    assert [len(one["faces"]) for one in document["photographs"]] == [0, 2, 0, 1]
    assert [(one["width"], one["height"]) for one in document["photographs"]] == [
        (80, 60),
        (320, 240),
        (0, 0),
        (320, 240),
    ]
    assert document["detector"] == "fake" and document["threshold"] == 0.4 and document["max_side"] == 640
    first = document["photographs"][1]["faces"][0]
    assert first["box"] == [10.5, 20.5, 70.75, 90.5] and first["score"] == 0.9
    np.testing.assert_allclose(first["points"], TEMPLATE / 2.0 + [10.5, 20.5], atol=1e-3)
    assert document["counts"] == {"done": 4, "with_faces": 2, "faces": 3, "unreadable": 1} == outcome.counts
    pictures = [one["picture"] for one in document["photographs"]]
    assert pictures[:3] == ["drawn/a/1.jpg.jpg", "drawn/a/1.png.jpg", None]
    assert all(cv2.imread(str(output / picture)) is not None for picture in pictures if picture)
    assert summary(outcome) == [
        "3 faces in 2 of 4 photographs, found by fake",
        "cannot be read: 1 photograph; the first: a/broken.jpg: not an image that OpenCV reads, or damaged",
        "not looked at: 1 file left out: 1 .txt (not an image)",
    ]


def test_the_table_has_a_row_for_each_face_and_for_what_has_none(folder):
    search(folder, [], [face(10, 20), face(-5, 3, 0.7)], [face(1, 2)], draw=False)
    text = (folder.parent / "out/faces.csv").read_text()
    rows = list(csv.DictReader(text.splitlines()))
    assert [(row["path"], row["faces"], row["face"], row["score"]) for row in rows] == [
        ("a/1.jpg", "0", "", ""), ("a/1.png", "2", "1", "0.9000000"), ("a/1.png", "2", "2", "0.7000000"),
        ("a/broken.jpg", "0", "", ""), (r"odd\x1b[31m\nname.png", "1", "1", "0.9000000"),
    ]  # fmt: skip
    assert [row["width"] for row in rows] == ["80", "320", "320", "", "320"]
    assert (rows[2]["x1"], rows[2]["y2"], rows[2]["point_x3"]) == ("-4.500", "73.500", f"{56.0252 / 2 - 4.5:.3f}")
    assert rows[3]["reason"] == "not an image that OpenCV reads, or damaged" and rows[0]["x1"] == ""
    assert all(character.isprintable() or character == "\n" for character in text)
    assert not (folder.parent / "out/drawn").exists()


def test_marks_are_drawn_at_the_edges():
    drawn = draw_faces(np.zeros((50, 60, 3), np.uint8), [face(1, 9)._replace(box=np.array([10.0, 20, 40, 45]))])
    rows, columns = np.nonzero(drawn.any(axis=2))
    assert (columns.min(), columns.max() + 1, rows.min()) == (10, 40, 20)
    assert draw_faces(np.zeros((5, 5, 3), np.uint8), [face(-1e9, 1e9)]).shape == (5, 5, 3)


def test_the_result_does_not_depend_on_the_number_of_processes_and_an_interrupted_search_goes_on(folder, monkeypatch):
    monkeypatch.setattr(to_faces, "CHECKPOINT", 1)
    monkeypatch.setattr("datasets.photos.sources._PORTION", 1)
    choice = SizedChoice("mtcnn", TestSizes(200, mirror=True))
    jobs = [FindJob(folder, folder.parent / name, choice, choice.sizes.facts()) for name in ("whole", "cut")]
    find_faces(jobs[0])
    seen, original = [], to_faces._find

    def interrupted(*given):
        seen.append(given)
        if len(seen) == 3:
            raise KeyboardInterrupt
        return original(*given)

    monkeypatch.setattr(to_faces, "_find", interrupted)
    with pytest.raises(KeyboardInterrupt):
        find_faces(jobs[1])
    assert not jobs[1].output.exists()
    more = Export(lambda folder: (folder / "more.txt").write_text(str(len(read_document(folder)["photographs"]))))
    find_faces(jobs[1], [more])
    assert len(seen) == 5
    assert (jobs[1].output / "more.txt").read_text() == "4"
    (jobs[1].output / "more.txt").unlink()
    assert contents(jobs[0].output) == contents(jobs[1].output)
    faces = read_document(jobs[0].output)["counts"]["faces"]
    assert faces >= 2 and not list(folder.parent.glob(".*"))


def test_what_cannot_be_is_refused(folder):
    output = folder.parent / "out"

    def one(name, **options):
        return find_faces(FindJob(folder / name, output, Choice([face(1, 2)]), {}, **options))

    with pytest.raises(ValueError, match=r"broken\.jpg: not an image"):
        one("a/broken.jpg")
    with pytest.raises(ValueError, match="whose photographs it would join"):
        find_faces(FindJob(folder, folder / "out", Choice(), {}))
    assert list(folder.parent.iterdir()) == [folder]
    one("a/1.jpg")
    with pytest.raises(ValueError, match="out exists; give --overwrite"):
        one("a/1.jpg")
    one("a/1.png", overwrite=True)
    assert [photo["path"] for photo in read_document(output)["photographs"]] == ["1.png"]
    (output / "faces.json").unlink()
    with pytest.raises(ValueError, match="out: this program did not write it"):
        one("a/1.png", overwrite=True)
